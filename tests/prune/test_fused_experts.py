"""SparseGPT and Wanda on fused experts: each expert's matrices by what that expert reads."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.moe_models import moe, text
from unweave import seeded
from unweave.masks.layers import copied
from unweave.models.moe import moe_layers, watching
from unweave.prune import NM, Scope, SparseGPT, WandaPrune
from unweave.prune.sparse_gpt import repair

SCOPE = {"scope": Scope(only=("*.experts.*",), least=0.0)}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mixtral", "gpt-oss"])
def test_each_expert_is_repaired_by_what_it_reads(name: str) -> None:
    model = moe(
        name, num_hidden_layers=1, **({"layer_types": ["full_attention"]} if name == "gpt-oss" else {})
    )
    data = text()
    how = SparseGPT(sparsity=0.5, **SCOPE)
    pruned = how.apply(model, data, rng=seeded(0))
    dense = copied(model)
    (mixture,) = moe_layers(dense)
    read: dict[int, list[torch.Tensor]] = {}

    def see(_: Any, routed: Any) -> None:
        for e in range(mixture.count):
            read.setdefault(e, []).append(routed.hidden[routed.of(e)[0]].detach())

    with watching([mixture], see), torch.no_grad():
        for batch in data.batches():
            data.task.outputs(dense, batch)
    (after,) = moe_layers(pruned)
    for e in range(mixture.count):
        rows = torch.cat(read[e])
        assert len(rows) > 0
        before, now = mixture.expert(e), after.expert(e)
        inner = before.inner(rows).detach()
        for weight, inputs, found in (
            (before.gate, rows, now.gate), (before.up, rows, now.up), (before.down, inner, now.down)
        ):  # fmt: skip
            expected = repair("one", weight.detach(), inputs.T @ inputs, how)
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)
            assert int((found == 0).sum()) == weight.numel() // 2


@pytest.mark.slow
def test_whole_models_are_in_scope_and_unseen_experts_are_told() -> None:
    model, data = moe("mixtral", num_hidden_layers=2), text(tokens=64)
    with torch.no_grad():  # no token chooses the first expert of the first block
        router = model.model.layers[0].mlp.gate
        router.weight[0] = 0.0
        router.weight[1:] = router.weight[1:].abs() + 1.0
        model.model.layers[0].post_attention_layernorm.weight.fill_(1.0)
    for edit in (WandaPrune(sparsity=0.5), SparseGPT(pattern=NM(2, 4))):
        with pytest.warns(UserWarning, match=r"no calibration token reached experts"):
            pruned = edit.apply(model, data, rng=seeded(0))
        for layer in pruned.model.layers:
            for weight in (
                layer.mlp.experts.gate_up_proj,
                layer.mlp.experts.down_proj,
                layer.self_attn.q_proj.weight,
            ):
                assert float((weight == 0).float().mean()) == pytest.approx(0.5, abs=0.01)
        if isinstance(edit.pattern, NM):
            groups = pruned.model.layers[1].mlp.experts.down_proj.reshape(-1, 4)
            assert int((groups != 0).sum(1).max()) <= 2
