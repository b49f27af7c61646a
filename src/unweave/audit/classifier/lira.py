"""LiRA: a likelihood-ratio attack, example by example, over models that saw it and models that did not.

Carlini et al., S&P 2022, arXiv 2112.03570. The models of an audit are its shadow models: holders saw the forget
set, oracles did not.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

from ...errors import InputError
from ...statistics import Floats

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


def taken_for_members(target: Floats, holders: Floats, oracles: Floats) -> float:
    """Share of the forget set that the online attack takes for members of the target model.

    Args:
        target: phi of n forget examples under the model in question, [n].
        holders: under models that hold them, [k, n].
        oracles: under models retrained without them, [m, n].
    """
    member = np.repeat([True, False], [len(holders), len(oracles)])[:, None].repeat(len(target), 1)
    return float((lira(target, np.concatenate([holders, oracles]), member) > 0).mean())


def _moments(phi: Floats, chosen: npt.NDArray[np.bool_]) -> tuple[Floats, Floats]:
    count = chosen.sum(0)
    mean = np.where(chosen, phi, 0).sum(0) / count
    squares = np.where(chosen, (phi - mean) ** 2, 0).sum(0)
    if count.min() >= _ENOUGH:
        return mean, np.sqrt(squares / (count - 1)) + 1e-6
    pooled = np.sqrt(squares.sum() / max(1, int(count.sum()) - phi.shape[1])) + 1e-6
    return mean, np.full(phi.shape[1], pooled)
