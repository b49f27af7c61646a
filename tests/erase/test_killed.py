"""A killed run of the erasers that train comes to the same bits; those with state of their own test it beside it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.optim import Adam, AdamW

from tests.erase.pipelines import CONCEPTS, pipeline
from unweave import resumable, seeded
from unweave.erase import ESD, ConceptAblation, ConceptSalUn

METHODS = [
    ESD(steps=6, lr=1e-3, sampler_steps=4),
    ConceptAblation(steps=6, lr=1e-3, images=4, sampler_steps=2),
    ConceptSalUn(steps=6, lr=1e-3, images=4, sampler_steps=2),
]


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_comes_to_the_same_bits(method: Any, tmp_path, monkeypatch) -> None:
    model, ticks, steps = pipeline(), iter(range(10**9)), []
    whole = method.apply(model, CONCEPTS, rng=seeded(0))
    monkeypatch.setattr(
        "unweave.fit.training.monotonic", lambda: 100.0 * next(ticks)
    )  # a checkpoint after every step
    # torch may have given each a step of its own, with its profiling around it
    for cls, real in ((Adam, Adam.step), (AdamW, AdamW.step)):

        def dying(self, closure=None, real=real):
            steps.append(1)
            if len(steps) == 4:
                raise KeyboardInterrupt
            return real(self, closure)

        monkeypatch.setattr(cls, "step", dying)
    with pytest.raises(KeyboardInterrupt), resumable(tmp_path):
        method.apply(model, CONCEPTS, rng=seeded(0))
    with resumable(tmp_path):
        again = method.apply(model, CONCEPTS, rng=seeded(0))
    assert len(steps) == 4 + 3  # three were kept
    assert all(torch.equal(p, whole.get_parameter(n)) for n, p in again.named_parameters())
