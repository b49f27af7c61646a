"""Several passes over one batch in one step: what must be the same in all, and what must happen once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import Module

from ..masks.layers import running_norms


class Passes:
    """Repeats a step's random draws in every pass after its first."""

    def __init__(self) -> None:
        self._count = 0
        self._draws: Draws | None = None

    def begin(self) -> None:
        """A new step begins."""
        self._count = 0

    def later(self) -> bool:
        """Count a pass; from the second of a step on, put the generators back to where the first found them."""
        self._count += 1
        if self._count == 1:
            self._draws = Draws()
            return False
        assert self._draws is not None
        self._draws.put_back_()
        return True


class Draws:
    """Where torch's global generators stand, on the CPU and on every GPU."""

    def __init__(self) -> None:
        self.cpu = torch.get_rng_state()
        self.cuda: list[Tensor] = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []

    def put_back_(self) -> None:
        """Set the generators to where they stood."""
        torch.set_rng_state(self.cpu)
        if self.cuda:
            torch.cuda.set_rng_state_all(self.cuda)


@contextmanager
def again(model: Module) -> Iterator[None]:
    """Leave running statistics of batch normalisation as they are inside the block, and use the batch's."""
    tracking = [m for m in running_norms(model) if m.training and m.track_running_stats]
    for module in tracking:
        module.track_running_stats = False  # type: ignore[assignment]
    try:
        yield
    finally:
        for module in tracking:
            module.track_running_stats = True  # type: ignore[assignment]


@contextmanager
def modes_kept(model: Module) -> Iterator[None]:
    """Give every module its own train or eval mode back after the block."""
    modes = {module: module.training for module in model.modules()}
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
