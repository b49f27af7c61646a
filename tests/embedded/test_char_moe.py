"""The small mixture of experts: what it reads, that it learns, and what its balance loss is for."""

from __future__ import annotations

import pytest
import torch

from unweave import seeded
from unweave.embedded.char_moe import SYMBOLS, CharMoE, char_texts, sources
from unweave.models.moe import moe_layers, watching
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
