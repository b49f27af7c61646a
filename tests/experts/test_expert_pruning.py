"""Scores against the sums written token by token, what is kept, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.experts.test_cd_moe import padded
from tests.moe_models import EXPERTS, MOES, moe, text
from unweave import seeded
from unweave.errors import EmptyDataError, InputError
from unweave.experts import ExpertPruning
from unweave.experts.expert_pruning import ScoreName
from unweave.models.moe import moe_layers, watching
from unweave.tasks import predict


def by_hand(model: Any, data: Any) -> dict[str, list[list[tuple[float, torch.Tensor, torch.Tensor]]]]:
    """Block -> expert -> (g, f(x), weighed answer) of every token routed to it, one text at a time without padding."""
    moes = moe_layers(model)
    found: dict[str, Any] = {m.name: [[] for _ in range(m.count)] for m in moes}

    def see(read: Any, routed: Any) -> None:
        for t in range(len(routed.hidden)):
            for e, g in zip(routed.index[t].tolist(), routed.weights[t].tolist(), strict=True):
                x = routed.hidden[t : t + 1]
                found[read.name][e].append(
                    (g, read.expert(e)(x)[0].double(), read.apply_expert(e, x, g)[0].double())
                )

    for item in data.examples:
        with watching(moes, see), torch.no_grad():
            model(input_ids=item["input_ids"][None])
    return found


@pytest.mark.parametrize("name", ["mixtral", "deepseek-v3", "llama4"])
def test_scores_are_their_formulas(name: str) -> None:
    model, data = moe(name), padded()
    tokens = by_hand(model, data)
    formulas: dict[ScoreName, Any] = {
        "frequency": len,
        "weighted frequency": lambda xs: sum(g for g, _, _ in xs),
        "ean sum": lambda xs: sum(f.norm() for _, f, _ in xs),
        "ean mean": lambda xs: sum(f.norm() for _, f, _ in xs) / max(len(xs), 1),
        "weighted ean": lambda xs: sum(y.norm() for _, _, y in xs),
        "ean ca": lambda xs: torch.stack([f for _, f, _ in xs]).mean(0).norm() if xs else 0,
        "reap": lambda xs: sum(y.norm() for _, _, y in xs) / max(len(xs), 1),
    }
    for score, formula in formulas.items():
        found = ExpertPruning(score=score).scores(model, data, rng=seeded(0))
        for block, own in found.items():
            expected = torch.tensor([float(formula(xs)) for xs in tokens[block]], dtype=torch.float64)
            torch.testing.assert_close(own, expected, rtol=1e-4, atol=1e-6)
    peaks = ExpertPruning(score="max activation").scores(model, data, rng=seeded(0))
    for block, own in peaks.items():
        least = torch.tensor(
            [max([float(f.abs().max()) for _, f, _ in xs], default=0) for xs in tokens[block]]
        )
        assert (own >= least - 1e-6).all()


def test_the_lowest_go_and_the_rest_keeps_its_bits() -> None:
    model, data = moe("qwen3-moe"), text(128)
    how = ExpertPruning(experts=3)
    scores, edited = how.scores(model, data, rng=seeded(0)), how.apply(model, data, rng=seeded(0))
    for before, after in zip(moe_layers(model), moe_layers(edited), strict=True):
        best = sorted(scores[before.name].topk(3).indices.tolist())
        assert [m.kept for m in edited.modules() if hasattr(m, "kept")][0] is not None
        for place, e in enumerate(best):
            assert torch.equal(after.expert(place).up, before.expert(e).up)
    assert edited.config.num_experts == 3
    assert {m.count for m in moe_layers(model)} == {EXPERTS}
    assert torch.equal(
        predict(ExpertPruning(experts=EXPERTS).apply(model, data, rng=seeded(0)), data), predict(model, data)
    )


def test_groups_stay_equally_large_and_a_budget_is_kept() -> None:
    edited = ExpertPruning(experts=4).apply(moe("deepseek-v3"), text(128), rng=seeded(0))
    for m in edited.modules():
        if hasattr(m, "kept"):
            assert sum(e < EXPERTS // 2 for e in m.kept) == 2
    model = moe("olmoe")
    total = sum(p.numel() for p in model.parameters())
    for memory in (0.5, 0.725, 1.0):
        small = ExpertPruning(memory=memory).apply(model, text(128), rng=seeded(0))
        share = sum(p.numel() for p in small.parameters()) / total
        assert memory - 0.11 < share <= memory  # one more expert a layer would be 0.1


def test_global_ranking_compares_shares_of_a_layer() -> None:
    model, data = moe("mixtral"), text(256)
    how = ExpertPruning(experts=4, granularity="global", score="frequency")
    counts = [m.count for m in moe_layers(how.apply(model, data, rng=seeded(0)))]
    assert sum(counts) == 12
    scores = {n: s / s.sum() for n, s in how.scores(model, data, rng=seeded(0)).items()}
    line = torch.cat(list(scores.values())).sort(descending=True).values[11]
    assert counts == [max(2, int((s >= line).sum())) for s in scores.values()]


def test_refuses_what_does_not_fit() -> None:
    data, rng = text(64), seeded(0)
    for settings, name, told in (
        ({"experts": 1}, "mixtral", r"from 2 .* to 8 experts"),
        ({"experts": 9}, "mixtral", r"from 2 .* to 8 experts"),
        ({"experts": 3}, "deepseek-v3", "a multiple of 2"),
        ({"experts": 4, "granularity": "global"}, "deepseek-v3", "chooses groups first"),
        ({"memory": 0.01}, "mixtral", "cannot be reached"),
    ):
        with pytest.raises(InputError, match=told):
            ExpertPruning(**settings).apply(moe(name), data, rng=rng)  # type: ignore[arg-type]
    with pytest.raises(EmptyDataError):
        ExpertPruning(experts=4).apply(moe("mixtral"), data.subset([]), rng=rng)
    with pytest.raises(InputError, match="would do nothing"):
        ExpertPruning(experts=4, memory=0.5)
    assert "mixtral" in MOES
