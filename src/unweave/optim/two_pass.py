"""The step of the SAM family: look, climb, look again, come back, step by what was seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import torch
from torch import Tensor

from ..settings import Range
from .vectors import shift_
from .wrapper import Closure, Wrapper

Rho = Annotated[float, Range(at_least=0, why="It is the radius of the perturbation, and finite.")]


@torch.no_grad()
def two_passes(
    optimizer: Wrapper,
    closure: Closure | None,
    first_step: Callable[[], None],
    second_step: Callable[[], None],
) -> Tensor:
    """One step in two passes, made of the two halves that a method has for loops that call backward themselves.

    Args:
        optimizer: the method.
        closure: torch's own; see `Wrapper`.
        first_step: climbs from the weights by the gradients that are there, as `climb_` does.
        second_step: comes back, by `come_back_`, and steps by the gradients that are there now.

    Returns:
        The loss at the weights before the step.

    Raises:
        InputError: if there is no closure, or it leaves no gradient. The weights are then as they were.
    """
    again = optimizer.needed(closure)
    loss = optimizer.gradient(again)
    try:
        first_step()
        optimizer.gradient(again)
    except BaseException:
        optimizer.restore()
        raise
    second_step()
    return loss


def climb_(
    optimizer: Wrapper, weights: list[Tensor], directions: list[Tensor], length: float | None, *,
    radii: list[float] | None = None,
) -> None:  # fmt: skip
    """Keep the weights and move each to w + rho direction / length; nothing moves if the length is zero.

    Args:
        optimizer: the method.
        weights: its parameters with a gradient.
        directions: one a weight.
        length: of all directions as one vector, mostly; None does not divide.
        radii: rho of each weight; its group's unless given.
    """
    optimizer.passed()
    optimizer.keep(weights)
    if radii is None:
        radii = [g["rho"] for g in optimizer.param_groups for p in g["params"] if p.grad is not None]
    if length is None:
        shift_(weights, directions, radii, foreach=optimizer.foreach)
    elif length > 0:
        shift_(weights, directions, [r / (length + 1e-12) for r in radii], foreach=optimizer.foreach)


def come_back_(optimizer: Wrapper) -> None:
    """Put the weights back to where they were before `climb_`, bit for bit."""
    optimizer.passed()
    optimizer.restore()
