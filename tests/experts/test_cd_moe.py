"""CD-MoE: the weights by hand, cached selection against the full procedure, trimming, tuning, what is refused."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pytest
import torch

from tests.moe_models import EXPERTS, VOCABULARY, moe, text
from unweave import Data, seeded
from unweave.errors import EmptyDataError, InputError
from unweave.experts import CDMoE, Choice
from unweave.experts.cd_moe.choose import condensation_weights, least_squares
from unweave.experts.cd_moe.states import Seen, capture, distance
from unweave.io.padding import Padded
from unweave.models.moe import Condensed, Routed, Trimmed, moe_layers
from unweave.models.moe.dense import swap_
from unweave.tasks import predict
from unweave.tasks.language import CausalLM


@lru_cache
def model(name: str = "deepseek-v2") -> Any:
    return moe(name)


def padded() -> Data[Any]:
    """Texts of different lengths, filled up."""
    rng = seeded(5)
    items = [{"input_ids": torch.randint(3, VOCABULARY, (n,), generator=rng)} for n in (5, 9, 3, 12, 7, 8)]
    return Data(items, CausalLM(), 3, Padded())  # type: ignore[arg-type]


@lru_cache
def chosen(**settings: Any) -> Choice:
    return CDMoE(**{"layers": 1, "k": 2, **settings}).choose(model(), padded(), rng=seeded(0))


def js(a: torch.Tensor, b: torch.Tensor) -> float:
    """Written from the definition, for one token in float64."""
    p, q = a.double().softmax(0), b.double().softmax(0)
    m = (p + q) / 2
    return float(sum(0.5 * x * (x / y).log() for x, y in zip([*p, *q], [*m, *m], strict=True)))


def far(changed: Any, layer: int | None) -> float:
    """The published procedure: the whole model runs on each text alone, and hidden states are compared token by token."""
    means = []
    for item in padded().examples:
        with torch.no_grad():
            ids = item["input_ids"][None]  # type: ignore[index]
            both = [m(input_ids=ids, output_hidden_states=True).hidden_states for m in (model(), changed)]
        at = -1 if layer is None else layer + 1  # the entry 0 is the embedding
        pairs = list(zip(both[0][at][0], both[1][at][0], strict=True))
        means.append(sum(js(a, b) for a, b in pairs) / len(pairs))
    return sum(means) / len(means)


def test_alpha_is_the_mean_weight_where_the_expert_was_chosen() -> None:
    read = moe_layers(model())[0]
    index = torch.tensor([[0, 1], [0, 2], [1, 0]])
    weights = torch.tensor([[0.5, 0.2], [0.3, 0.1], [0.4, 0.1]])
    seen = Seen(
        Routed(torch.zeros(3, 16), index, weights), torch.zeros(3, 16), torch.zeros(3, 16), torch.ones(3)
    )
    found = condensation_weights(read, seen)
    torch.testing.assert_close(found[:3], torch.tensor([0.9 / 3, 0.6 / 2, 0.1]))
    torch.testing.assert_close(found[3:], torch.full((5,), (0.3 + 0.3 + 0.1) / 3))
    over_all = condensation_weights(read, seen, "unconditional mean")
    torch.testing.assert_close(over_all[:3], torch.tensor([0.9, 0.6, 0.1]) / 3)


def test_cached_selection_is_the_full_procedure() -> None:
    """Every greedy step of every layer, and of the choice of layers, by running the whole model for each candidate."""
    choice, original = chosen(layers=2), model()
    for read in moe_layers(original):
        layer = int(read.layer.rpartition(".")[2])
        alpha = condensation_weights(read, capture(original.eval(), padded(), read))
        kept: list[int] = []
        for step in range(2):
            found = {}
            for e in set(range(EXPERTS)) - set(kept):
                new = Condensed.of_block(read, [*kept, e], alpha[[*kept, e]].detach())
                old = swap_(original, read.name, new)
                found[e] = far_of(original, old, read.name, layer)
            kept.append(min(found, key=lambda e: found[e]))
            assert choice.alone[read.name][step + 1] == pytest.approx(min(found.values()), rel=1e-3)
        assert kept == choice.kept[read.name]
    assert set(choice.order) == {m.name for m in moe_layers(original)}


def far_of(original: Any, old: Any, name: str, layer: int | None) -> float:
    """As `far`, for the model with a module swapped in, which is then put back."""
    from copy import deepcopy

    changed = deepcopy(original)
    swap_(original, name, old)
    return far(changed, layer)


def test_layers_are_chosen_by_the_final_hidden_state() -> None:
    choice, original = chosen(layers=2), model()
    alone = {}
    for name in choice.ready:
        old = swap_(original, name, choice.ready[name])
        alone[name] = far_of(original, old, name, None)
    assert choice.order[0] == min(alone, key=lambda n: alone[n])
    assert choice.final[0] == pytest.approx(min(alone.values()), rel=1e-3)
    one = chosen(layers=1)
    assert (list(one.order), list(one.final)) == (list(choice.order[:1]), list(choice.final[:1]))
    given = chosen(layers=None, layer_selector=(1, 0))
    assert list(given.order) == list(choice.ready)[::-1]
    assert given.final[-1] == pytest.approx(choice.final[-1], rel=1e-4)
    assert list(chosen(layers=2, layer_selector="sequential").order) == sorted(alone, key=lambda n: alone[n])


def test_least_squares_is_never_worse_in_l2() -> None:
    original = model()
    read = moe_layers(original)[0]
    seen = capture(original, padded(), read)
    kept, mean = [1, 4, 6], condensation_weights(read, seen)[[1, 4, 6]]
    solved = least_squares(read, seen, kept, mean)

    def error(alpha: torch.Tensor) -> float:
        with torch.no_grad():
            made = Condensed.of_block(read, kept, alpha)(seen.routed.hidden)
        return float((made - seen.output).square().sum())

    assert error(solved) < error(mean)
    assert all(error(solved) <= error(solved + 0.05 * d) for d in (*torch.eye(3), *-torch.eye(3)))


def test_memory_decides_how_many_layers_and_fold_changes_nothing() -> None:
    original, data = model(), padded()
    total = sum(p.numel() for p in original.parameters())
    before = predict(original, data.subset([0]))
    edited = CDMoE(k=1, memory=0.8).apply(original, data, rng=seeded(0))
    assert sum(p.numel() for p in edited.parameters()) <= 0.8 * total
    assert sum(isinstance(m, Condensed) for m in edited.modules()) == 1
    open_ = CDMoE(k=1, memory=0.8, fold=False).apply(original, data, rng=seeded(0))
    torch.testing.assert_close(
        predict(edited, data.subset([0])), predict(open_, data.subset([0])), rtol=1e-4, atol=1e-4
    )
    assert torch.equal(predict(original, data.subset([0])), before)
    assert {id(p) for p in edited.parameters()}.isdisjoint(id(p) for p in original.parameters())


@pytest.mark.parametrize("recover", ["lm", "lora", "distil"])
def test_light_tuning_moves_the_kept_experts_alone_and_helps(recover: Any) -> None:
    original, data = model(), text(640)
    plain = CDMoE(layers=2, fold=False, examples=8)
    tuned = CDMoE(layers=2, fold=False, examples=8, recover=recover, recover_epochs=4, recover_lr=0.02)
    a, b = (how.apply(original, data, rng=seeded(0)) for how in (plain, tuned))
    moved = {n for n, p in a.named_parameters() if not torch.equal(p, b.get_parameter(n))}
    assert moved
    assert all("routed" in name for name in moved)
    assert all(torch.equal(t, b.get_buffer(n)) for n, t in a.named_buffers())
    loss = lambda m: float(predict(m, data, data.task.losses).mean())  # noqa: E731
    assert {n for n, _ in a.named_parameters()} == {n for n, _ in b.named_parameters()}, (
        "no factor is left behind"
    )
    if recover == "lora":
        change = (b.get_parameter(min(moved)) - a.get_parameter(min(moved))).double()
        assert torch.linalg.matrix_rank(change, rtol=1e-4) <= 8 < min(change.shape)
    if recover != "distil":
        assert loss(b) < loss(a) - 0.05
    else:
        wanted = predict(original, data).softmax(-1)
        apart = [float((predict(m, data).softmax(-1) - wanted).abs().sum(-1).mean()) for m in (a, b)]
        assert apart[1] < 0.95 * apart[0]


def test_trimming_takes_blocks_or_whole_layers_out() -> None:
    original, data = model("gpt-oss"), text(64)
    for mode, whole in (("layer trim", False), ("block trim", True)):
        edited = CDMoE(mode=mode, layers=1, examples=4).apply(original, data, rng=seeded(0))  # type: ignore[arg-type]
        assert [m.whole for m in edited.modules() if isinstance(m, Trimmed)] == [whole]
        ids = torch.randint(3, VOCABULARY, (1, 6), generator=seeded(1))
        with torch.no_grad():
            once = edited.generate(ids, max_new_tokens=5, do_sample=False)
            slow = edited.generate(ids, max_new_tokens=5, do_sample=False, use_cache=False)
        assert torch.equal(once, slow)


def test_selectors_rank_as_they_say() -> None:
    original = model()
    read = moe_layers(original)[0]
    seen = capture(original, padded(), read)
    counts = torch.bincount(seen.routed.index.flatten(), minlength=EXPERTS)
    frequent = chosen(selector="frequency").kept[read.name]
    assert counts[frequent].tolist() == counts.sort(descending=True).values[:2].tolist()
    energy = torch.zeros(EXPERTS)
    for t in range(len(seen.output)):
        for e, w in zip(seen.routed.index[t].tolist(), seen.routed.weights[t], strict=True):
            energy[e] += (w * read.expert(e)(seen.routed.hidden[t])).detach().square().sum()
    assert chosen(selector="l2 energy").kept[read.name] == energy.topk(2).indices.tolist()
    drawn = {
        tuple(CDMoE(layers=1, selector="random").choose(original, padded(), rng=seeded(s)).kept[read.name])
        for s in (0, 1)
    }
    assert len(drawn) == 2


def test_distances_are_their_definitions() -> None:
    rng = seeded(2)
    a, b = torch.randn(2, 7, generator=rng), torch.randn(2, 7, generator=rng)
    share = torch.tensor([0.25, 0.75], dtype=torch.float64)
    expected = 0.25 * js(a[0], b[0]) + 0.75 * js(a[1], b[1])
    assert distance(a, b, share) == pytest.approx(expected, rel=1e-5)
    l2 = [(x - y).square().sum() / x.square().sum() for x, y in zip(a, b, strict=True)]
    assert distance(a, b, share, "l2") == pytest.approx(float(0.25 * l2[0] + 0.75 * l2[1]), rel=1e-5)
    assert distance(a, 3 * a, share, "cosine") == pytest.approx(0, abs=1e-6)


def test_refuses_what_cannot_be_done() -> None:
    data, rng = text(64), seeded(0)
    for method, name, told in (
        (CDMoE(layers=3), "deepseek-v2", "layers must be at most 2"),
        (CDMoE(layers=1, k=9), "deepseek-v2", "k must be at most 8"),
        (CDMoE(layers=1, mode="S"), "qwen3-moe", r"no shared expert, so mode S"),
        (CDMoE(layers=1, k=0), "mixtral", r"no shared expert"),
        (CDMoE(memory=0.01), "deepseek-v2", "cannot be reached"),
        (CDMoE(layer_selector=(0, 2)), "deepseek-v2", "different layers from 0 to 1"),
        (CDMoE(layers=1, alpha="least squares"), "llama4", "no linear solution"),
    ):
        with pytest.raises(InputError, match=told):
            method.apply(model(name), data, rng=rng)
    with pytest.raises(EmptyDataError):
        CDMoE(layers=1).apply(model(), data.subset([]), rng=rng)
    one = Data([{"input_ids": torch.tensor([3])}], CausalLM(), 1, Padded())  # type: ignore[arg-type]
    with pytest.raises(InputError, match="one token in all"):
        CDMoE(layers=1).apply(model(), one, rng=rng)
    for idle in ({"layers": 1, "memory": 0.5}, {"mode": "S", "k": 2}, {"recover_lr": 0.1}):
        with pytest.raises(InputError, match="would do nothing"):
            CDMoE(**idle)  # type: ignore[arg-type]
