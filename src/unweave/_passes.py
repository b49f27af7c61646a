"""Several passes over one batch in one step: what must be the same in all, and what must happen once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import Module

from .layers import NORMS


class Passes:
    """Repeats a step's random draws in every pass after its first."""

    def __init__(self) -> None:
        self._count = 0
        self._state: Tensor | None = None
        self._cuda: list[Tensor] = []

    def begin(self) -> None:
        """A new step begins."""
        self._count = 0

    def later(self) -> bool:
        """Count a pass; from the second of a step on, put the generators back to where the first found them."""
        self._count += 1
        if self._count == 1:
            self._state = torch.get_rng_state()
            self._cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
            return False
        assert self._state is not None
        torch.set_rng_state(self._state)
        if self._cuda:
            torch.cuda.set_rng_state_all(self._cuda)
        return True


@contextmanager
def again(model: Module) -> Iterator[None]:
    """Leave running statistics of batch normalisation as they are inside the block, and use the batch's."""
    tracking = [m for m in model.modules() if isinstance(m, NORMS) and m.training and m.track_running_stats]
    for module in tracking:
        module.track_running_stats = False
    try:
        yield
    finally:
        for module in tracking:
            module.track_running_stats = True
