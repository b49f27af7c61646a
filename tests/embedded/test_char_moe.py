"""The small mixture of experts: what it reads, that it learns, and what its balance loss is for."""

from __future__ import annotations

import pytest
import torch

from unweave import seeded
from unweave.embedded.char_moe import SYMBOLS, CharMoE, _imbalance, char_texts, sources
from unweave.models.moe import Routed, moe_layers, watching
from unweave.tasks import predict

pytest.importorskip("transformers")
TINY = {"layers": 1, "experts": 6, "top_k": 1, "width": 16, "inner": 8}


def test_texts_are_the_standard_library_and_apart() -> None:
    ids = sources(5_000)
    assert len(ids) == 5_000
    assert int(ids.max()) < SYMBOLS
    train, held = char_texts(20_000)
    assert len(train) == 281
    assert len(held) == 31
    rows = {tuple(row) for batch in train.batches() for row in batch[0].tolist()}
    assert not rows & {tuple(row) for batch in held.batches() for row in batch[0].tolist()}


def test_balance_loss_is_experts_times_share_chosen_times_mean_probability() -> None:
    (moe,) = moe_layers(CharMoE(**TINY).initial(seeded(0)))  # type: ignore[arg-type]
    logits = torch.randn(4, 6, generator=seeded(1))
    chosen = torch.tensor([[0, 1], [0, 2], [0, 1], [5, 3]])
    routed = Routed(torch.zeros(4, 16), chosen, torch.ones(4, 2), logits)
    share = [3 / 8, 2 / 8, 1 / 8, 1 / 8, 0, 1 / 8]
    mean = [sum(float(row.exp()[e] / row.exp().sum()) for row in logits) / 4 for e in range(6)]
    expected = 6 * sum(s * p for s, p in zip(share, mean, strict=True))
    assert float(_imbalance(moe, routed)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.slow
def test_it_learns_and_the_balance_loss_spreads_tokens() -> None:
    train, held = char_texts(20_000)
    made = {b: CharMoE(steps=25, lr=0.02, balance=b, **TINY).build(train, rng=seeded(0)) for b in (0.0, 1.0)}  # type: ignore[arg-type]
    fresh = CharMoE(**TINY).initial(seeded(0))  # type: ignore[arg-type]
    loss = {
        n: float(predict(m, held, held.task.losses).mean())
        for n, m in (("fresh", fresh), ("made", made[0.0]))
    }
    assert loss["made"] < loss["fresh"] - 0.7
    most = {}
    for balance, model in made.items():
        seen: list[torch.Tensor] = []
        with watching(moe_layers(model), lambda _, routed, seen=seen: seen.append(routed.index)):  # type: ignore[misc]
            predict(model, held)
        counts = torch.bincount(torch.cat(seen).flatten(), minlength=6)
        most[balance] = float(counts.max() / counts.sum())
    assert most[1.0] < 0.35 < most[0.0]
