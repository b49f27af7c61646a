"""Summary figures of the papers: average gap and tug of war, both against retrained models."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ...statistics import Floats


def average_gap(model: Sequence[float], oracles: Floats) -> float:
    """Mean over figures of the distance to the oracles' mean (Jia et al., 2023, arXiv 2304.04934), in points.

    Args:
        model: figures in %, [f]: accuracy on forget, retain and held-out examples, and a membership share.
        oracles: the same of each oracle, [m, f].

    Example:
        >>> average_gap([90.0, 100.0], np.array([[80.0, 100.0], [84.0, 98.0]]))
        4.5
    """
    return float(np.abs(np.asarray(model) - oracles.mean(0)).mean())


def tug_of_war(model: Sequence[float], oracles: Floats) -> float:
    """Product over figures of 1 - |distance to the oracles' mean| (Zhao et al., 2024, arXiv 2406.01257).

    Args:
        model: accuracies in %, [f], on forget, retain and held-out examples.
        oracles: the same of each oracle, [m, f].

    Example:
        >>> tug_of_war([90.0, 100.0], np.array([[80.0, 100.0]]))
        0.9
    """
    return float(np.prod(1 - np.abs(np.asarray(model) - oracles.mean(0)) / 100))


def against_each_other(oracles: Floats, figure: Callable[[Sequence[float], Floats], float]) -> Floats:
    """`figure(oracle, the others)` of each oracle, [m]: its noise floor; empty for fewer than two."""
    if len(oracles) < 2:
        return np.zeros(0)
    return np.array([figure(oracles[i].tolist(), np.delete(oracles, i, 0)) for i in range(len(oracles))])
