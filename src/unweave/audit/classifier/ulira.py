"""Likelihood-ratio attacks, example by example, over models: LiRA for members, U-LiRA for unlearned ones.

LiRA: Carlini et al., S&P 2022, arXiv 2112.03570. U-LiRA: Hayes et al., SaTML 2025, arXiv 2403.01218.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import norm
from torch.nn import Module

from ...errors import InputError
from ...statistics import Floats, wilson
from ...types import Measurement, Request
from .scores import confidences

_ENOUGH = 64  # models a side from which an example's own variance is trusted (Carlini et al., section VI-C)


def lira(target: Floats, shadows: Floats, member: npt.NDArray[np.bool_], *, online: bool = True) -> Floats:
    """Evidence that each example was in the target model's training data.

    Online: log N(phi; mu_in, s_in) - log N(phi; mu_out, s_out). Offline, without models that saw the example:
    Phi((phi - mu_out) / s_out). With fewer than 64 shadow models a side the variance is pooled over examples.

    Args:
        target: phi of n examples under the target model, [n].
        shadows: phi under k shadow models, [k, n].
        member: which shadow model was trained on which example, [k, n].
        online: use the shadow models that saw the example too.

    Returns:
        [n]; higher is more member-like.

    Raises:
        InputError: if an example has no shadow model outside (or, online, inside).
    """
    sides = [~member, member] if online else [~member]
    if min(int(side.sum(0).min()) for side in sides) < 1:
        raise InputError(
            "lira: every example needs at least one shadow model without it, and online one with it."
        )
    moments = [_moments(shadows, side) for side in sides]
    if not online:
        ((mean, sd),) = moments
        offline: Floats = norm.cdf((target - mean) / sd)
        return offline
    out, inside = (norm.logpdf(target, mean, sd) for mean, sd in moments)
    ratio: Floats = inside - out
    return ratio


def _moments(phi: Floats, chosen: npt.NDArray[np.bool_]) -> tuple[Floats, Floats]:
    count = chosen.sum(0)
    mean = np.where(chosen, phi, 0).sum(0) / count
    squares = np.where(chosen, (phi - mean) ** 2, 0).sum(0)
    if count.min() >= _ENOUGH:
        return mean, np.sqrt(squares / (count - 1)) + 1e-6
    pooled = np.sqrt(squares.sum() / max(1, int(count.sum()) - phi.shape[1])) + 1e-6
    return mean, np.full(phi.shape[1], pooled)


def ulira(unlearned: Sequence[Module], oracles: Sequence[Module], request: Request[Any]) -> Measurement:
    """How often an attacker tells an unlearned model from a retrained one by one forget example's confidence.

    One unlearned model and one oracle are left out in turn; Gaussians fitted to the others' phi, example by
    example, guess which is which (left out in pairs, so that the guess is unbiased). 50 % is perfect
    forgetting. Hayes et al. train shadow models on random halves of the data; here all models share the
    request's forget set, so the figure is about this request.

    Args:
        unlearned: models that the method made forget this request, from originals of different seeds.
        oracles: models retrained without the forget set.
        request: its forget set is read.

    Returns:
        Accuracy in %, with an interval over pairs of models.

    Raises:
        InputError: if there are fewer than three of either.
    """
    if min(len(unlearned), len(oracles)) < 3:
        raise InputError(
            f"U-LiRA needs at least 3 unlearned models and 3 oracles; got {len(unlearned)} and "
            f"{len(oracles)}. Unlearn originals of other seeds."
        )
    accuracy, pairs = ulira_of(confidences(unlearned, request.forget), confidences(oracles, request.forget))
    return Measurement(
        name="U-LiRA, accuracy per example",
        value=100 * accuracy,
        unit="%",
        direction="50 % is a coin toss: an unlearned example looks never seen; 100 % is always told apart",
        n=pairs,
        interval=tuple(100 * end for end in wilson(accuracy * pairs, pairs)),  # type: ignore[arg-type]
        oracle_mean=50.0,
        note=f"interval over {pairs} pairs of models; examples of one model are not independent",
    )


def ulira_of(unlearned: Floats, oracles: Floats) -> tuple[float, int]:
    """Accuracy of the attack on phi of two groups of models, [k, n] and [m, n], and pairs left out."""
    pairs = min(len(unlearned), len(oracles))
    right = []
    for i in range(pairs):
        stacked = np.concatenate([np.delete(unlearned, i, 0), np.delete(oracles, i, 0)])
        member = np.zeros(stacked.shape, dtype=bool)
        member[: len(unlearned) - 1] = True
        a, b = (lira(phi[i], stacked, member) for phi in (unlearned, oracles))
        right.append(((a > 0).mean() + (b <= 0).mean()) / 2)
    return float(np.mean(right)), pairs
