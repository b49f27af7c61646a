"""One figure of the edited model beside the original's and the oracles'."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..types import Measurement


def measurement(
    name: str,
    value: float,
    original: float | None,
    oracles: Sequence[float],
    *,
    unit: str,
    direction: str,
    n: int,
    interval: tuple[float, float] | None = None,
    note: str = "",
) -> Measurement:
    """A measurement with the oracles summed up; their spread (standard deviation) needs two."""
    return Measurement(
        name=name,
        value=value,
        unit=unit,
        direction=direction,
        n=n,
        interval=interval,
        original=original,
        oracle_mean=float(np.mean(oracles)) if oracles else None,
        oracle_spread=float(np.std(oracles, ddof=1)) if len(oracles) > 1 else None,
        note=note,
    )


def missing(name: str, *, unit: str, direction: str, note: str) -> Measurement:
    """A measurement that could not be made; `note` says why."""
    return Measurement(name=name, value=None, unit=unit, direction=direction, n=0, note=note)
