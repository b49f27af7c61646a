"""Merging into the most used experts: who is dominant, who joins whom, and what aligning is for."""

from __future__ import annotations

import pytest
import torch

from tests.moe_models import EXPERTS, moe, text
from unweave import seeded
from unweave.errors import InputError
from unweave.experts import MCSMoE
from unweave.experts.mc_smoe import dominants, grouped
from unweave.models.moe import Tied, moe_layers, watching
from unweave.tasks import predict

DATA = text(128)


def test_dominants_are_the_most_used_of_all_layers_and_one_in_each() -> None:
    usage = {
        "a": torch.tensor([9.0, 8, 7, 6]),
        "b": torch.tensor([1.0, 2, 1, 0]),
        "c": torch.tensor([5.0, 0, 6.5, 0]),
    }
    assert dominants(usage, 6) == {"a": [0, 1, 2, 3], "b": [1], "c": [2]}
    assert dominants(usage, 7) == {"a": [0, 1, 2, 3], "b": [1], "c": [0, 2]}
    assert dominants(usage, 3) == {"a": [0], "b": [1], "c": [2]}


def test_others_join_the_dominant_with_the_most_alike_logits() -> None:
    model = moe("qwen3-moe")
    edited = MCSMoE(experts=3).apply(model, DATA, rng=seeded(0))
    seen: dict[str, list[torch.Tensor]] = {}
    used: dict[str, list[torch.Tensor]] = {}

    def see(m, routed) -> None:  # type: ignore[no-untyped-def]
        seen.setdefault(m.name, []).append(routed.logits.double())
        used.setdefault(m.name, []).append(routed.index)

    with watching(moe_layers(model), see):
        predict(model, DATA)
    total = 0
    usage = {n: torch.bincount(torch.cat(i).flatten(), minlength=EXPERTS).double() for n, i in used.items()}
    chosen = dominants(usage, 9)
    for name, parts in seen.items():
        z = torch.cat(parts)
        z = z - z.mean(1, keepdim=True)
        places = edited.get_submodule(name).experts.places.tolist()
        total += max(places) + 1
        for e in range(EXPERTS):
            cos = [torch.cosine_similarity(z[:, e], z[:, d], dim=0) for d in chosen[name]]
            expected = chosen[name].index(e) if e in chosen[name] else int(torch.stack(cos).argmax())
            assert places[e] == expected
    assert total == 9
    alike = torch.tensor([[1, 0.4, 0.1], [0.4, 1, 0.3], [0.1, 0.3, 1]])
    assert grouped(alike, [2, 0]) == [[2], [0, 1]]


def test_aligning_brings_shuffled_copies_back_together() -> None:
    """Every expert is expert 0 with shuffled hidden units: merged after aligning, the model answers as before."""
    model = moe("mixtral")
    rng = seeded(4)
    with torch.no_grad():
        for read in moe_layers(model):
            first = read.expert(0)
            for e in range(1, EXPERTS):
                order = torch.randperm(len(first.up), generator=rng)
                own = read.expert(e)
                own.gate.copy_(first.gate[order])
                own.up.copy_(first.up[order])
                own.down.copy_(first.down[:, order])
    before = predict(model, DATA)
    merged, plain = (MCSMoE(experts=1, align=a).apply(model, DATA, rng=seeded(0)) for a in (True, False))
    torch.testing.assert_close(predict(merged, DATA), before, rtol=1e-4, atol=1e-4)
    assert (predict(plain, DATA) - before).abs().max() > 0.1
    assert sum(isinstance(m, Tied) for m in merged.modules()) == 3


def test_refuses_what_cannot_be_merged() -> None:
    with pytest.raises(InputError, match="weighs what its experts read"):
        MCSMoE(experts=3).apply(moe("llama4"), DATA, rng=seeded(0))
    with pytest.raises(InputError, match="would do nothing"):
        MCSMoE(experts=3, memory=0.5)
