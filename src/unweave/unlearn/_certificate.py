"""What every certified deletion shares: its (epsilon, delta), constants given all or none, noise, preconditions."""

from __future__ import annotations

from collections.abc import Sequence
from math import log, sqrt
from typing import Annotated, Any

from torch.nn import Module

from ..errors import InputError
from ..masks.layers import running_norms
from ..masks.mask import Mask
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


def check_certifiable(who: str, model: Module) -> None:
    """Refuse a certificate where something that the proof does not see was made with the forgotten data.

    Raises:
        InputError: if the model keeps running statistics, is pruned, or has frozen weights; it says which and why.
    """
    norms, frozen = running_norms(model), [n for n, p in model.named_parameters() if not p.requires_grad]
    why = ""
    if norms:
        kinds = ", ".join(sorted({type(m).__name__ for m in norms}))
        why = (
            f"cannot certify a model with running statistics ({len(norms)} layers: {kinds}): these were averaged over "
            "the forgotten examples too, and stay; and in training a loss depends on its batch"
        )
    elif Mask.of(model):
        why = "cannot certify a pruned model: which weights live was chosen with the forgotten data"
    elif frozen:
        told = ", ".join(frozen[:3]) + (f" and {len(frozen) - 3} more" if len(frozen) > 3 else "")
        why = (
            f"cannot certify a model with frozen weights ({told}): what they learned of the forgotten data stays, and "
            "no noise is added to them"
        )
    if why:
        raise InputError(f"{who} {why}. Leave the constants out.")


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
