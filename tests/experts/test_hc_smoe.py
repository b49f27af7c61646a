"""Merging by answers: clusters, averages, ties, files, and what is refused. The merging itself is shared with MC-SMoE."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.cluster.hierarchy import fcluster, linkage

from tests.moe_models import EXPERTS, moe, text
from unweave import seeded
from unweave.errors import InputError
from unweave.experts import HCSMoE
from unweave.experts._merge import aligned
from unweave.experts.hc_smoe import agglomerated
from unweave.io.transformers_folder import load_model, save_model_folder
from unweave.models.moe import Tied, moe_layers, record_of, watching
from unweave.tasks import predict

DATA = text(96)


def test_clusters_are_scipys_average_linkage() -> None:
    features = torch.randn(9, 4, generator=seeded(3), dtype=torch.float64)
    usage = torch.arange(9.0)
    mine = agglomerated(features, usage, 4)
    labels = fcluster(linkage(features.numpy(), "average"), 4, "maxclust")
    assert {frozenset(c) for c in mine} == {
        frozenset(np.flatnonzero(labels == i).tolist()) for i in set(labels)
    }
    assert all(c[0] == max(c) for c in mine)


@pytest.mark.parametrize("name", ["qwen2-moe", "deepseek-v3", "gpt-oss"])
def test_a_merged_layer_is_its_average_under_the_old_router(name: str, tmp_path: Path) -> None:
    model = moe(name)
    edited = HCSMoE(experts=3).apply(model, DATA, rng=seeded(0))
    block = moe_layers(model)[-1]
    tied = next(m for n, m in edited.named_modules() if isinstance(m, Tied) and n.startswith(block.name))
    usage = torch.zeros(EXPERTS)
    x = []
    with watching([block], lambda _, r: x.append(r)):
        predict(model, DATA)
    for routed in x:
        usage += torch.bincount(routed.index.flatten(), minlength=EXPERTS)
    index, weights = x[0].index, x[0].weights
    mine = torch.zeros_like(x[0].hidden)
    for t in range(len(index)):
        for e, w in zip(index[t].tolist(), weights[t], strict=True):
            members = [i for i in range(EXPERTS) if tied.places[i] == tied.places[e]]
            share = (
                usage[members] / usage[members].sum()
                if usage[members].sum()
                else torch.ones(len(members)) / len(members)
            )
            part = block.expert(e)
            total = {
                n: sum(s * getattr(block.expert(i), n) for s, i in zip(share, members, strict=True))
                for n in (
                    "gate",
                    "up",
                    "down",
                    *(("gate_bias", "up_bias", "down_bias") if part.gate_bias is not None else ()),
                )
            }
            mine[t] += (w * type(part)(unit=part.unit, **total)(x[0].hidden[t : t + 1])[0]).detach()  # type: ignore[arg-type]
    with torch.no_grad():
        torch.testing.assert_close(tied(x[0].hidden, index, weights), mine, rtol=1e-4, atol=1e-5)
    save_model_folder(edited, tmp_path / "m", structure=record_of(edited))
    again = load_model(tmp_path / "m", "AutoModelForCausalLM")
    assert torch.equal(predict(again, DATA), predict(edited, DATA))
    assert record_of(again) == record_of(edited)


def test_merging_nothing_changes_nothing_and_aligned_experts_answer_the_same() -> None:
    model = moe("olmoe")
    same = HCSMoE(experts=EXPERTS).apply(model, DATA, rng=seeded(0))
    torch.testing.assert_close(predict(same, DATA), predict(model, DATA))
    for name in ("olmoe", "gpt-oss"):
        read = moe_layers(moe(name))[0]
        x = torch.randn(5, 16, generator=seeded(1))
        moved = aligned(read.expert(0), read.expert(3))
        torch.testing.assert_close(moved(x), read.expert(3)(x))
        assert not torch.equal(moved.up, read.expert(3).up)
        order = torch.randperm(len(moved.up), generator=seeded(2))
        from unweave.models.moe import Matrices

        shuffled = Matrices(moved.gate[order], moved.up[order], moved.down[:, order], moved.unit)
        torch.testing.assert_close(aligned(moved, shuffled).gate, moved.gate)


def test_refuses_what_cannot_be_merged() -> None:
    with pytest.raises(InputError, match="weighs what its experts read"):
        HCSMoE(experts=3).apply(moe("llama4"), DATA, rng=seeded(0))
    with pytest.raises(InputError, match="from 1 to 8"):
        HCSMoE(experts=9).apply(moe("olmoe"), DATA, rng=seeded(0))
    with pytest.raises(InputError, match="cannot be reached"):
        HCSMoE(memory=0.01).apply(moe("olmoe"), DATA, rng=seeded(0))
    merged = HCSMoE(experts=3).apply(moe("olmoe"), DATA, rng=seeded(0))
    with pytest.raises(InputError, match="already merged"):
        moe_layers(merged)
