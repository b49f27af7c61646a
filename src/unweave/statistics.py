"""Intervals: Wilson and exact bounds for shares, Newcombe for their differences, Student's t for means, bootstrap else.

Methods that ran at the same seeds are compared seed by seed: `summarise`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, nan, sqrt
from statistics import fmean, stdev

import numpy as np
import numpy.typing as npt
from scipy import stats
from torch import Generator

from .errors import InputError
from .random import draw_seed

Floats = npt.NDArray[np.float64]


def wilson(hits: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a share: it does not collapse to a point at 0 or n hits.

    Args:
        hits: successes, 0 to n.
        n: trials; with none, the interval is all of [0, 1].
        level: coverage.

    Raises:
        InputError: if `hits` lies outside 0 to n.

    Example:
        >>> [round(end, 3) for end in wilson(40, 40)]
        [0.912, 1.0]
    """
    if not 0 <= hits <= n:
        raise InputError(f"wilson: hits must lie between 0 and n = {n}; got {hits}.")
    if n == 0:
        return 0.0, 1.0
    z = float(stats.norm.ppf(0.5 + level / 2))
    p, spread = hits / n, z * sqrt(hits / n * (1 - hits / n) / n + z * z / (4 * n * n))
    centre, scale = p + z * z / (2 * n), 1 + z * z / n
    low, high = (centre - spread) / scale, (centre + spread) / scale
    return 0.0 if hits == 0 else low, 1.0 if hits == n else high


def at_least(hits: int, n: int, alpha: float = 0.05) -> float:
    """Exact one-sided lower bound of a share (Clopper and Pearson, 1934): above it with probability 1 - alpha.

    Args:
        hits: successes, 0 to n.
        n: trials; with none, nothing is known: 0.
        alpha: chance that the bound lies above the share.

    Example:
        >>> round(at_least(24, 24), 3)  # 0.05 ** (1 / 24)
        0.883
    """
    return float(stats.beta.ppf(alpha, hits, n - hits + 1)) if hits else 0.0


def at_most(hits: int, n: int, alpha: float = 0.05) -> float:
    """Exact one-sided upper bound of a share; as `at_least`, 1 without trials.

    Example:
        >>> round(at_most(0, 24), 3)  # 24 trials without a hit exclude 12 % or more
        0.117
    """
    return float(stats.beta.ppf(1 - alpha, hits + 1, n - hits)) if hits < n else 1.0


def difference(hits: int, n: int, other_hits: int, other_n: int, alpha: float = 0.05) -> tuple[float, float]:
    """Bounds of a share less another, each one-sided with error alpha: Newcombe's hybrid of score intervals.

    Newcombe, "Interval estimation for the difference between independent proportions", Statistics in Medicine 17,
    1998, method 10.

    Args:
        hits: successes of the first, 0 to n.
        n: its trials; with none, the bounds are as wide as they can be.
        other_hits: successes of the second.
        other_n: its trials.
        alpha: chance that a bound lies on the wrong side.

    Example:
        >>> [round(end, 2) for end in difference(24, 24, 0, 24)]
        [0.86, 1.0]
    """
    if not n or not other_n:
        return -1.0, 1.0
    (low, high), (below, above) = (wilson(h, k, 1 - 2 * alpha) for h, k in ((hits, n), (other_hits, other_n)))
    p, q = hits / n, other_hits / other_n
    return p - q - sqrt((p - low) ** 2 + (above - q) ** 2), p - q + sqrt((high - p) ** 2 + (q - below) ** 2)


def prediction(
    values: Floats, level: float = 0.95, *, left_out: bool = False, several: int = 1
) -> tuple[float, float]:
    """Interval in which one more value of the same normal sample, or the mean of several, would lie (Student's t).

    Args:
        values: the sample, [n]. Fewer than two give (-inf, inf).
        level: coverage.
        left_out: each value was measured against the n - 1 others, and so lies n / (n - 1) times as far out
            as from the mean of all. The interval allows for that, by the square root of it only: a little
            wide, since whatever else the others set was also set by one model fewer.
        several: how many new values the interval is for the mean of.

    Example:
        >>> [round(end, 2) for end in prediction(np.array([1.0, 2.0, 3.0]))]
        [-2.97, 6.97]
    """
    n = len(values)
    if n < 2:
        return -inf, inf
    wide = (1 / several + 1 / n) * ((n - 1) / n if left_out else 1)
    half = float(stats.t.ppf(0.5 + level / 2, n - 1) * values.std(ddof=1)) * sqrt(wide)
    return float(values.mean()) - half, float(values.mean()) + half


def bootstrap(
    statistic: Callable[..., float], *samples: Floats, rng: Generator, repeats: int = 200, level: float = 0.95
) -> tuple[float, float]:
    """Percentile interval of `statistic(*samples)`, each sample redrawn by itself.

    Args:
        statistic: of arrays shaped as `samples` are.
        samples: redrawn along their first axis.
        rng: drawn from once.
        repeats: redraws.
        level: coverage.
    """
    draw = np.random.default_rng(draw_seed(rng))
    found = [statistic(*(s[draw.integers(len(s), size=len(s))] for s in samples)) for _ in range(repeats)]
    low, high = np.quantile(found, [0.5 - level / 2, 0.5 + level / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class Trial:
    """One method at one seed.

    Attributes:
        method: its name.
        seed: of the trial; trials of one seed share data order, beginnings and what else is drawn.
        figures: name -> value; empty if it failed.
        units: name -> unit.
        error: why it failed; "" if it did not.
    """

    method: str
    seed: int
    figures: Mapping[str, float] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A figure of a method over its seeds, and against the baseline's, seed by seed.

    Attributes:
        values: one a seed, in the seeds' order.
        mean: of the values.
        spread: their standard deviation; NaN for one.
        interval: 95 % interval of the mean (Student's t); NaN for one.
        differences: from the baseline at the same seed, where both have one.
        difference: mean of these; NaN without any.
        difference_interval: 95 % interval of that mean.
    """

    values: Sequence[float]
    mean: float
    spread: float
    interval: tuple[float, float]
    differences: Sequence[float] = ()
    difference: float = nan
    difference_interval: tuple[float, float] = (nan, nan)


def summarise(trials: Sequence[Trial], baseline: str) -> dict[str, dict[str, Summary]]:
    """Figure -> method -> summary, with differences from `baseline`.

    Raises:
        InputError: if no trial has `baseline` as its method.
    """
    names = list(dict.fromkeys(t.method for t in trials))
    if baseline not in names:
        raise InputError(f"the baseline {baseline!r} is none of the methods compared: {', '.join(names)}.")
    figures = dict.fromkeys(name for t in trials for name in t.figures)
    told: dict[str, dict[str, Summary]] = {}
    for figure in figures:
        found = {
            n: {t.seed: t.figures[figure] for t in trials if t.method == n and figure in t.figures}
            for n in names
        }
        told[figure] = {n: _summary(found[n], found[baseline], n == baseline) for n in names if found[n]}
    return told


def _summary(found: Mapping[int, float], base: Mapping[int, float], itself: bool) -> Summary:
    values = list(found.values())
    gaps = [] if itself else [v - base[seed] for seed, v in found.items() if seed in base]
    return Summary(
        values=values, mean=fmean(values), spread=stdev(values) if len(values) > 1 else nan,
        interval=_interval(values), differences=gaps, difference=fmean(gaps) if gaps else nan,
        difference_interval=_interval(gaps),
    )  # fmt: skip


def _interval(values: Sequence[float]) -> tuple[float, float]:
    if len(values) < 2:
        return (nan, nan)
    half = float(stats.t.ppf(0.975, len(values) - 1)) * stdev(values) / sqrt(len(values))
    return (fmean(values) - half, fmean(values) + half)
