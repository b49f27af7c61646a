"""The set that is kept gives the least loss of all sets, each measured on a really pruned block."""

from __future__ import annotations

from copy import deepcopy
from itertools import combinations
from typing import Any

import pytest
import torch

from tests.moe_models import moe, text
from unweave import seeded
from unweave.errors import InputError
from unweave.experts import NAEE, naee
from unweave.experts.cd_moe.states import capture
from unweave.io.transformers_folder import load_model, save_model_folder
from unweave.models.moe import Skipping, keep_experts_, moe_layers, record_of, route_once, watching
from unweave.tasks import predict


def losses(model: Any, data: Any, block: str, keep: int) -> dict[tuple[int, ...], float]:
    """By slicing a copy of the model and asking its block, for every set."""
    read = next(m for m in moe_layers(model) if m.name == block)
    x = capture(model, data, read).routed.hidden.reshape(data.steps, -1, 16)

    def ask(block: Any, part: torch.Tensor) -> torch.Tensor:
        out = block(part[None])
        return (out if isinstance(out, torch.Tensor) else out[0]).double().reshape(-1, 16)

    found = {}
    for kept in combinations(range(read.count), keep):
        small = deepcopy(model)
        moes = moe_layers(small)
        keep_experts_(small, {block: kept}, moes, "test")
        cut = small.get_submodule(block)
        with torch.no_grad():
            found[kept] = sum(float((ask(read.block, part) - ask(cut, part)).norm()) for part in x)
    return found


@pytest.mark.parametrize("name", ["qwen2-moe", "gpt-oss", "llama4"])
def test_the_kept_set_is_the_best_of_all_sets(name: str) -> None:
    extra = {"num_experts" if name == "qwen2-moe" else "num_local_experts": 5}
    model, data = moe(name, **extra), text(64)
    edited = NAEE(experts=3).apply(model, data, rng=seeded(0))
    for read in moe_layers(model)[-1:]:
        found = losses(model, data, read.name, 3)
        kept = next(m for n, m in edited.get_submodule(read.name).named_modules() if hasattr(m, "kept")).kept
        assert kept == min(found, key=lambda s: found[s])
        answers = naee.Answers.of(model, data, read)
        with torch.no_grad():
            assert answers.loss((0, 2, 3)) == pytest.approx(found[0, 2, 3], rel=1e-4)


def test_many_experts_are_taken_out_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = moe("mixtral", num_local_experts=5), text(64)
    monkeypatch.setattr(naee, "MOST", 4)
    edited = NAEE(experts=3).apply(model, data, rng=seeded(0))
    read = moe_layers(model)[0]
    first = losses(model, data, read.name, 4)
    left = min(first, key=lambda s: first[s])
    second = {s: v for s, v in losses(model, data, read.name, 3).items() if set(s) < set(left)}
    assert edited.get_submodule(read.name).experts.kept == min(second, key=lambda s: second[s])


def test_progressive_reads_what_the_pruned_layers_answer() -> None:
    model, data = moe("mixtral", num_local_experts=5), text(96)
    plain, chained = (
        NAEE(experts=2, inputs=i).apply(model, data, rng=seeded(0)) for i in ("layerwise", "progressive")
    )  # type: ignore[arg-type]
    kept = [[m.experts.kept for m in (layer.mlp for layer in e.model.layers)] for e in (plain, chained)]
    assert kept[0][0] == kept[1][0]
    last = moe_layers(chained)[-1]
    prefix = deepcopy(model)
    moes = moe_layers(prefix)
    keep_experts_(prefix, {m.name: k for m, k in zip(moes[:-1], kept[1][:-1], strict=True)}, moes, "test")
    found = losses(prefix, data, last.name, 2)
    assert kept[1][-1] == min(found, key=lambda s: found[s])


@pytest.mark.parametrize("name", ["mixtral", "qwen2-moe"])
def test_skipping_leaves_out_half_of_the_second_experts(name: str, tmp_path: Any) -> None:
    model, data = moe(name), text(64)
    edited = NAEE(experts=6, skip=True).apply(model, data, rng=seeded(0))
    plain = NAEE(experts=6).apply(model, data, rng=seeded(0))
    wrapped = [m for m in edited.modules() if isinstance(m, Skipping)]
    assert len(wrapped) == 3
    seen: list[Any] = []
    with watching(moe_layers(plain), lambda _, routed: seen.append(routed)):
        predict(plain, data)
    first = torch.cat([r.weights for r in seen[:: len(wrapped)]]).double()
    assert wrapped[0].beta == float((first.min(1).values / first.max(1).values).median())
    predict(edited, data)
    assert wrapped[0].skipped / wrapped[0].tokens == pytest.approx(0.5, abs=0.05), "the median"
    read, block = moe_layers(plain)[0], edited.get_submodule(moe_layers(plain)[0].name)
    x = seen[0].hidden[:24]
    with torch.no_grad():
        _, routed = route_once(read, x)
        y = block(x[None])
        y = (y if isinstance(y, torch.Tensor) else y[0])[0]
        for t in range(len(x)):
            (a, b), (i, j) = routed.weights[t], routed.index[t]
            expected = read.apply_shared(x[t][None])[0]
            if min(a, b) < wrapped[0].beta * max(a, b):
                expected = expected + (a + b) * read.expert(int(i if a >= b else j))(x[t])
            else:
                expected = expected + a * read.expert(int(i))(x[t]) + b * read.expert(int(j))(x[t])
            torch.testing.assert_close(y[t], expected, rtol=1e-4, atol=1e-5)
    save_model_folder(edited, tmp_path / "m", structure=record_of(edited))
    assert torch.equal(
        predict(load_model(tmp_path / "m", "AutoModelForCausalLM"), data), predict(edited, data)
    )
    for wrapper in wrapped:
        wrapper.beta = 0.0
    assert torch.equal(predict(edited, data), predict(plain, data))


def test_skipping_is_for_two_experts_a_token() -> None:
    with pytest.raises(InputError, match="for two experts a token"):
        NAEE(experts=6, skip=True).apply(moe("qwen3-moe", num_experts_per_tok=3), text(64), rng=seeded(0))


def test_refuses_groups() -> None:
    with pytest.raises(InputError, match="chooses groups first"):
        NAEE(experts=4).apply(moe("deepseek-v3"), text(64), rng=seeded(0))
    with pytest.raises(InputError, match="from 2"):
        NAEE(experts=1).apply(moe("mixtral"), text(64), rng=seeded(0))
