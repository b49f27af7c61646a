"""Task vector: as far the other way as learning by heart went."""

from __future__ import annotations

import pytest
import torch

from tests.language.world import (
    FORGET,
    llama,
    nll,
    request,
)
from unweave import seeded
from unweave.errors import InputError
from unweave.language import TaskVector
from unweave.language._tune import fine_tuned


def test_walks_the_other_way() -> None:
    start, data = llama(0), request()
    learned = fine_tuned("x", start, data.forget, epochs=2, lr=0.01, lora=None, rng=seeded(3))
    edited = TaskVector(epochs=2, lr=0.01, scale=0.5).apply(start, data, rng=seeded(3))
    for a, r, e in zip(start.parameters(), learned.parameters(), edited.parameters(), strict=True):
        assert torch.allclose(e, a - 0.5 * (r - a), atol=1e-14)
    at = [float(nll(m, FORGET).detach()) for m in (learned, start, edited)]
    assert at == sorted(at)


def test_settings_are_checked() -> None:
    with pytest.raises(InputError, match="scale must be above 0"):
        TaskVector(scale=0.0)
