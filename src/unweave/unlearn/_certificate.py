"""What every certified deletion shares: its (epsilon, delta), constants given all or none, the noise they ask for."""

from __future__ import annotations

from collections.abc import Sequence
from math import log, sqrt
from typing import Annotated, Any

from ..errors import InputError
from ..settings import Range

Epsilon = Annotated[float, Range(above=0, at_most=1, why="The noise formula is proven no further.")]
"""Privacy loss."""
Delta = Annotated[float, Range(above=0, below=1, why="It is a probability of failure.")]
"""Probability of exceeding it."""


def gaussian_noise(distance: float, epsilon: float, delta: float) -> float:
    """Standard deviation that hides a distance between models: distance sqrt(2 ln(1.25 / delta)) / epsilon.

    Added to every weight of either, it makes the two (epsilon, delta)-indistinguishable (Gaussian mechanism,
    Dwork and Roth, 2014, theorem A.1).

    Example:
        >>> round(gaussian_noise(0.1, 1.0, 1e-5), 4)
        0.4845
    """
    return distance * sqrt(2 * log(1.25 / delta)) / epsilon


def certified(method: Any, constants: Sequence[str]) -> bool:
    """Whether the constants of a certificate are given.

    Raises:
        InputError: if some are and some are not.
    """
    missing = [name for name in constants if getattr(method, name) is None]
    if missing and len(missing) < len(constants):
        raise InputError(
            f"{type(method).__name__} lacks {', '.join(missing)} for a certificate. "
            f"Give all of {', '.join(constants)}, or none of them."
        )
    return not missing
