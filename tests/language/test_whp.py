"""WHP: labels of the original less what reinforcement raised."""

from __future__ import annotations

import torch

from tests.language.world import (
    FORGET,
    assert_equal,
    caught,
    llama,
    logits,
    loss_of,
)
from unweave import seeded
from unweave.language import WHP
from unweave.language import whp as module


def test_loss_is_the_equation(monkeypatch) -> None:
    """The reinforced model stands in by another one; labels and loss are worked out text by text."""
    start, raised, model = llama(0), llama(2), llama(1)
    monkeypatch.setattr(module, "fine_tuned", lambda *_, **__: raised)
    parts = []
    for text in FORGET:
        (v0, _), (vr, _), (z, _) = (logits(m, text) for m in (start, raised, model))
        words = (v0 - 3.0 * torch.clamp(vr - v0, min=0)).argmax(-1)
        parts += [-row.log_softmax(0)[k] for row, k in zip(z, words, strict=True)]
    assert_equal(loss_of(WHP(strength=3.0)), torch.stack(parts).mean())
    found = caught(WHP(strength=3.0), llama(0))
    assert_equal(found["objective"](model, next(found["data"].batches(seeded(8)))), torch.stack(parts).mean())
