"""How much of a request a model still knows: a few examples kept whole, which the mean over all hides.

Each example is set against two normal distributions, of models that hold it and of models that never saw it. The
share that fits all ratios best is the maximum of the likelihood of a mixture of the two. Read against the shares
of left-out oracles it finds the tenth of a request that stayed, where the mean position lies within its tolerance.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np
import numpy.typing as npt
from scipy import stats

from ...statistics import Floats

PRIOR = 8.0
"""Degrees of freedom that the average example's variance counts for."""
_CUT = 6.0  # no single example may say more
_APART = 0.7  # standard deviations between the two means from which an example says something
_LEAST = 3  # examples below which all are asked


@dataclass(frozen=True)
class Ratios:
    """What each of n examples is set against.

    Attributes:
        held: mean of the holders, [n].
        never: mean of the oracles, [n].
        held_variance: of one more holder, [n].
        never_variance: of one more oracle, [n].
    """

    held: Floats
    never: Floats
    held_variance: Floats
    never_variance: Floats

    @classmethod
    def between(cls, holders: Floats, oracles: Floats) -> Ratios:
        """Of the figures of holders [h, n] and of oracles [m, n]."""
        return cls(holders.mean(0), oracles.mean(0), _variance(holders), _variance(oracles))

    def of(self, values: Floats) -> Floats:
        """Log likelihood ratio, holders over oracles, of one model's values [n], cut to 6 either way.

        A value beyond either mean counts as that mean: who answers worse than any oracle does not know more.
        """
        low, high = np.minimum(self.held, self.never), np.maximum(self.held, self.never)
        y = np.clip(values, low, high)
        held = stats.norm.logpdf(y, self.held, np.sqrt(self.held_variance))
        never = stats.norm.logpdf(y, self.never, np.sqrt(self.never_variance))
        out: Floats = np.clip(held - never, -_CUT, _CUT)
        return out

    @property
    def telling(self) -> npt.NDArray[np.bool_]:
        """Which examples say something, [n]; all of them where fewer than three do."""
        apart = np.abs(self.held - self.never) / np.sqrt(self.held_variance + self.never_variance) > _APART
        return apart if apart.sum() >= _LEAST else np.ones_like(apart)

    def share(self, values: Floats) -> float:
        """Share of the telling examples that one model's values [n] show as held, 0 to 1."""
        return mixture(self.of(values)[self.telling])


def mixture(ratios: Floats) -> float:
    """The weight of the first of two distributions that maximises the likelihood of log ratios [n].

    argmax over pi in [0, 1] of sum log(pi e^l + 1 - pi), which is concave; found by halving.

    Example:
        >>> mixture(np.array([6.0, -6.0, -6.0, -6.0])) < 0.26, mixture(np.array([-1.0, -2.0]))
        (True, 0.0)
    """
    gain = np.expm1(ratios)

    def slope(pi: float) -> float:
        return float((gain / (1 + pi * gain)).sum())

    if slope(0.0) <= 0:
        return 0.0
    if slope(1.0) >= 0:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) > 0 else (low, middle)
    return (low + high) / 2


def still_known(
    position: float, holders: Floats, oracles: Floats, effective: float
) -> tuple[float, tuple[float, float]]:
    """Share of the forget set answered as by models that hold it, with its 95 % interval.

    Args:
        position: of the model.
        holders: positions of models that hold the data, each measured by the others.
        oracles: the same of retrained ones.
        effective: how many examples of equal pull the ruler has.

    Returns:
        1 - position, and an interval of it cut to [0, 1]: it adds to the spread of either kind of model the chance
        of which examples stayed.
    """
    share = 1 - position
    q = min(1.0, max(0.0, share))
    spread = sqrt((1 - q) * oracles.var(ddof=1) + q * holders.var(ddof=1) + q * (1 - q) / max(effective, 1.0))
    half = float(stats.t.ppf(0.975, len(oracles) - 1)) * spread
    return share, (min(1.0, max(0.0, share - half)), min(1.0, max(0.0, share + half)))


def _variance(models: Floats) -> Floats:
    """Of one more model, for each example: shrunk to the average example's, with the error of the mean."""
    k = len(models)
    squares = ((models - models.mean(0)) ** 2).sum(0)
    out: Floats = ((squares + PRIOR * squares.mean() / (k - 1)) / (k - 1 + PRIOR) + 1e-6) * (1 + 1 / k)
    return out
