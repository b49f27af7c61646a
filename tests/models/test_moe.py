"""One reading of every mixture of experts: what it finds, what it keeps to the bit, what comes back from a file."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.moe_models import EXPERTS, MOES, VOCABULARY, moe
from unweave import seeded
from unweave.errors import InputError
from unweave.io.transformers_folder import load_model, save_model_folder
from unweave.models.moe import Condensed, keep_experts_, moe_layers, record_of, route_once, watching
from unweave.models.moe.dense import Trimmed, swap_

EVERY = pytest.mark.parametrize("name", MOES)
IDS = torch.randint(3, VOCABULARY, (3, 12), generator=seeded(1))
KEPT = [0, 2, 5, 7]  # two of each half, as groups ask


def logits(model: Any, **more: Any) -> torch.Tensor:
    with torch.no_grad():
        out: torch.Tensor = model(input_ids=IDS, **more).logits
    return out


@EVERY
def test_a_block_is_its_router_its_experts_and_its_shared_expert(name: str) -> None:
    """Recomputed expert by expert from slices: every number of the reading takes part."""
    model = moe(name)
    read = moe_layers(model)[-1]
    assert (read.count, read.top_k) == (EXPERTS, 2)
    assert (read.shared is not None) == (name in {"qwen2-moe", "deepseek-v2", "deepseek-v3", "llama4"})
    x = torch.randn(20, 16, generator=seeded(3))
    with torch.no_grad():
        out, routed = route_once(read, x)
        mine = read.apply_shared(x)
        for t in range(len(x)):
            for e, w in zip(routed.index[t].tolist(), routed.weights[t], strict=True):
                mine[t] += read.apply_expert(e, x[t : t + 1], w[None])[0]
    torch.testing.assert_close(mine, out, rtol=1e-4, atol=1e-5)
    assert routed.logits is not None
    assert routed.logits.shape == (20, EXPERTS)


@EVERY
def test_keeping_all_is_the_same_to_the_bit_and_keeping_some_reads_back(name: str, tmp_path: Path) -> None:
    import transformers

    model = moe(name)
    before = logits(model)
    whole = deepcopy(model)
    found = moe_layers(whole)
    keep_experts_(whole, {m.name: range(EXPERTS) for m in found}, found, "test")
    assert torch.equal(logits(whole), before)

    cut = deepcopy(model)
    found = moe_layers(cut)
    keep_experts_(cut, {m.name: KEPT for m in found}, found, "test")
    assert {m.count for m in moe_layers(cut)} == {4}
    after = logits(cut)
    assert not torch.equal(after, before)
    save_model_folder(cut, tmp_path / "even", structure=record_of(cut))
    assert not (tmp_path / "even" / "structure.json").exists()
    plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "even")
    assert torch.equal(logits(plain.eval()), after)
    torch.testing.assert_close(moe_layers(cut)[0].expert(1).down, moe_layers(model)[0].expert(2).down)

    save_mixed(model, tmp_path / "mixed")


def save_mixed(model: Any, folder: Path) -> None:
    """Another count in each layer, the last one condensed: no configuration says that, structure.json does."""
    mixed = deepcopy(model)
    *found, last = moe_layers(mixed)
    keep_experts_(
        mixed, {m.name: KEPT[: 4 - 2 * (i % 2)] if i else KEPT for i, m in enumerate(found)}, found, "test"
    )
    swap_(mixed, last.name, Condensed.of_block(last, [1, 4], torch.tensor([0.3, 0.5])))
    after = logits(mixed)
    save_model_folder(mixed, folder, structure=record_of(mixed))
    assert (folder / "structure.json").exists()
    again = load_model(folder, "AutoModelForCausalLM")
    assert torch.equal(logits(again), after)
    assert record_of(again) == record_of(mixed)


@EVERY
def test_a_condensed_layer_is_its_loop_folds_exactly_and_exports(name: str) -> None:
    model = moe(name)
    read = moe_layers(model)[-1]
    x = torch.randn(4, 5, 16, generator=seeded(4))
    alpha = torch.tensor([0.4, 0.25, 0.6])
    dense = Condensed.of_block(read, [6, 0, 3], alpha).eval()
    flat = x.reshape(-1, 16)
    with torch.no_grad():
        loop = read.apply_shared(flat) + sum(
            read.apply_expert(e, flat, float(a)) for e, a in zip([6, 0, 3], alpha, strict=True)
        )
        answer = lambda m: (m(x)[0] if read.pair else m(x)).reshape(-1, 16)  # noqa: E731
        torch.testing.assert_close(answer(dense), loop, rtol=1e-4, atol=1e-5)
        dense.fold_()
        torch.testing.assert_close(answer(dense), loop, rtol=1e-4, atol=1e-5)
        assert not dict(dense.named_buffers())
        exported = torch.export.export(dense, (x,)).module()
        assert torch.equal(answer(exported), answer(dense))
    assert (dense.shared is not None) == (name == "qwen2-moe")


def test_all_experts_with_the_routers_own_weights_give_the_original_layer() -> None:
    model = moe("deepseek-v2", num_experts_per_tok=EXPERTS)
    read = moe_layers(model)[-1]
    x = torch.randn(1, 16, generator=seeded(5))
    with torch.no_grad():
        out, routed = route_once(read, x)
        alpha = torch.zeros(EXPERTS).index_put((routed.index[0],), routed.weights[0])
        torch.testing.assert_close(
            Condensed.of_block(read, list(range(EXPERTS)), alpha)(x), out, rtol=1e-4, atol=1e-6
        )


def test_padding_is_not_routed_for() -> None:
    model = moe("qwen3-moe")
    found = moe_layers(model)
    mask = torch.ones_like(IDS)
    mask[0, :5] = 0
    seen: list[int] = []
    with watching(found, lambda _, routed: seen.append(len(routed.index)), mask.bool()), torch.no_grad():
        model(input_ids=IDS, attention_mask=mask)
    assert seen == [31] * 3


def test_what_was_taken_out_is_read_back(tmp_path: Path) -> None:
    model = moe("gpt-oss")
    swap_(model, "model.layers.1.mlp", Trimmed(whole=False, pair=True))
    swap_(model, "model.layers.2", Trimmed(whole=True))
    after = logits(model)
    save_model_folder(model, tmp_path / "m", structure=record_of(model))
    assert torch.equal(logits(load_model(tmp_path / "m", "AutoModelForCausalLM")), after)


def test_refuses_what_it_cannot_read(tmp_path: Path) -> None:
    from tests.language_world import llama

    with pytest.raises(
        InputError, match="who needs a mixture of experts; this LlamaForCausalLM has no block"
    ):
        moe_layers(llama(), "who")
    quantised = moe("mixtral")
    quantised.config.quantization_config = {"quant_method": "gptq"}
    with pytest.raises(InputError, match="quantised"):
        moe_layers(quantised)
    spread = moe("mixtral")
    spread.hf_device_map = {"model.layers.0": 0, "model.layers.1": "cpu"}
    with pytest.raises(InputError, match=r"dispatched over .* by accelerate"):
        moe_layers(spread)
    stored = moe("mixtral")
    for part in stored.modules():
        for own in dict(part.named_parameters(recurse=False)).values():
            if own.ndim == 3:
                own.requires_grad_(False).data = own.data.to(torch.int8)
    with pytest.raises(InputError, match=r"experts of model\.layers\.0\.mlp are quantised"):
        moe_layers(stored)
    model = moe("deepseek-v3")
    found = moe_layers(model)
    for kept, told in (([1], "from 2 .* to 8"), ([0, 1, 2], "a multiple of 2"), ([0, 7], "do not fit")):
        with pytest.raises(InputError, match=told):
            keep_experts_(model, {found[0].name: kept}, found, "test")
    assert {m.count for m in moe_layers(model)} == {EXPERTS}
