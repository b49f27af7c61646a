"""Noise that turns a bound on the distance between two models into an (epsilon, delta) certificate."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite, log, sqrt

from ..errors import InputError


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """What a Newton step guarantees.

    Attributes:
        certified: whether (epsilon, delta) holds, given that the constants do.
        sigma: standard deviation of the noise added to each weight.
        bound: largest distance between the step's end and the retrained model; None if not certified.
        epsilon: privacy loss; None if not certified.
        delta: probability of exceeding it; None if not certified.
        statement: the same in words.
    """

    certified: bool
    sigma: float
    bound: float | None
    epsilon: float | None
    delta: float | None
    statement: str


def certificate(*, bound: float, epsilon: float, delta: float) -> Certificate:
    """Noise that hides a distance `bound` between models: sigma = bound sqrt(2 ln(1.25 / delta)) / epsilon.

    For Newton the bound on |w_newton - w_retrained| is, with A = H_R + (weight_decay + damping) I,
        (2 C (M C + damping) + G + residual) / (smallest eigenvalue + weight_decay + damping)
    (theorem 3.4 of the paper; G for retraining that stops early, the residual of the solver). It follows from
        A (w_newton - w_retrained) = (A d - (grad(w) - grad(w_retrained))) - grad(w_retrained) - residual
    with d = w - w_retrained and |d| <= 2 C.

    Args:
        bound: positive, in weight units.
        epsilon: in (0, 1]; the Gaussian mechanism's formula is proven no further.
        delta: in (0, 1).

    Raises:
        InputError: if one is out of range.

    Example:
        >>> round(certificate(bound=0.1, epsilon=1.0, delta=1e-5).sigma, 4)
        0.4845
    """
    if not (isfinite(bound) and bound > 0):
        raise InputError(
            f"the certificate's bound must be positive and finite; got {bound:g}. "
            "With smallest_eigenvalue + weight_decay + damping at or below 0 there is none: raise damping."
        )
    if not 0 < epsilon <= 1:
        raise InputError(
            f"Newton.epsilon must be in (0, 1]; got {epsilon}. The noise formula is proven no further."
        )
    if not 0 < delta < 1:
        raise InputError(f"Newton.delta must be in (0, 1); got {delta}. It is a probability of failure.")
    sigma = bound * sqrt(2 * log(1.25 / delta)) / epsilon
    text = (
        f"certified ({epsilon:g}, {delta:g}): noise {sigma:.3g} hides a distance of at most {bound:.3g}, "
        "if the constants hold."
    )
    return Certificate(certified=True, sigma=sigma, bound=bound, epsilon=epsilon, delta=delta, statement=text)
