"""Several passes over one batch in one step: what must be the same in all, and what must happen once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from ..io.told import tell
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
def lone_frozen(norms: Sequence[Module]) -> Iterator[None]:
    """Inside the block, one value a channel is normalised by running statistics: alone, it has no spread.

    Args:
        norms: layers of batch normalisation; those without running statistics refuse such a batch as ever.
    """
    hooks = [norm.register_forward_pre_hook(_begin_lone) for norm in norms]
    hooks += [norm.register_forward_hook(_end_lone, always_call=True) for norm in norms]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _begin_lone(norm: Module, given: tuple[Any, ...]) -> None:
    if norm.training and isinstance(given[0], Tensor) and given[0].numel() == given[0].shape[1]:
        tell(
            "one example alone met batch normalisation, which divides by the spread of a batch: it was normalised by "
            "the running statistics there, and they stay as they are."
        )
        norm.training, norm.lone = False, True  # type: ignore[assignment]


def _end_lone(norm: Module, given: tuple[Any, ...], out: Any) -> None:
    if norm.__dict__.pop("lone", False):
        norm.training = True


@contextmanager
def modes_kept(model: Module) -> Iterator[None]:
    """Give every module its own train or eval mode back after the block."""
    modes = {module: module.training for module in model.modules()}
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
