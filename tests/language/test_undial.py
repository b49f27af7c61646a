"""UNDIAL: the original's answers with the true token lowered."""

from __future__ import annotations

import torch

from tests.language.world import (
    FORGET,
    KEPT,
    assert_equal,
    llama,
    logits,
    loss_of,
    nll,
)
from unweave.language import UNDIAL


def test_loss_is_the_equation() -> None:
    start, model, beta = llama(0), llama(1), 4.0
    parts = []
    for text in FORGET:
        (taught, y), (z, _) = logits(start, text), logits(model, text)
        for t, row, k in zip(taught, z, y, strict=True):
            lowered = t.clone()
            lowered[k] -= beta
            parts.append(-(lowered.softmax(0) * row.log_softmax(0)).sum())
    assert_equal(loss_of(UNDIAL(beta=beta)), torch.stack(parts).mean())
    assert_equal(loss_of(UNDIAL(beta=beta, alpha=0.5)), torch.stack(parts).mean() + 0.5 * nll(model, KEPT))
