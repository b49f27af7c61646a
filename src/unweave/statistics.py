"""Intervals: Wilson for shares, Student's t for a fresh model of a sample, bootstrap for everything else."""

from __future__ import annotations

from collections.abc import Callable
from math import inf, sqrt

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


def prediction(values: Floats, level: float = 0.95, *, left_out: bool = False) -> tuple[float, float]:
    """Interval in which one more value of the same normal sample would lie (Student's t).

    Args:
        values: the sample, [n]. Fewer than two give (-inf, inf).
        level: coverage.
        left_out: each value was measured against the n - 1 others, and so lies n / (n - 1) times as far out
            as from the mean of all. The interval allows for that, by the square root of it only: a little
            wide, since whatever else the others set was also set by one model fewer.

    Example:
        >>> [round(end, 2) for end in prediction(np.array([1.0, 2.0, 3.0]))]
        [-2.97, 6.97]
    """
    n = len(values)
    if n < 2:
        return -inf, inf
    half = float(stats.t.ppf(0.5 + level / 2, n - 1) * values.std(ddof=1)) * sqrt(
        1 - 1 / n**2 if left_out else 1 + 1 / n
    )
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
