"""Figures as people read them: the same digits, dashes and units in every report, table and notebook."""

from __future__ import annotations

import math

from ..types import Measurement


def number(value: float | None, *, digits: int = 3) -> str:
    """A figure with this many significant digits, thousands separated; a dash when there is none.

    Example:
        >>> [number(x) for x in (16000.4, 92.44, -0.5034, 0.0000123, 0.0, None)]
        ['16,000', '92.4', '−0.503', '1.23e−05', '0', '–']
    """
    if value is None or not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    size = abs(value)
    if size < 1e-3 or size >= 1e9:
        text = f"{value:.{digits}g}"
    else:
        text = f"{value:,.{max(0, digits - 1 - math.floor(math.log10(size)))}f}"
    return text.replace("-", "−")


def place(value: float | None) -> str:
    """A position between 0 and 1, to two decimals."""
    return f"{value:.2f}".replace("-", "−") if value is not None and math.isfinite(value) else "–"


def interval(ends: tuple[float, float] | None) -> str:
    """Both ends with "to" between them; empty when there is none."""
    return "" if ends is None else f"{number(ends[0])} to {number(ends[1])}"


def seconds(value: float) -> str:
    """A duration a person would say.

    Example:
        >>> [seconds(x) for x in (0.034, 4.21, 75.0, 7300.0)]
        ['0.034 s', '4.2 s', '1 min 15 s', '2 h 2 min']
    """
    if value < 1:
        return f"{value:.2g} s"
    if value < 60:
        return f"{value:.1f} s" if value < 10 else f"{value:.0f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(round(value / 60), 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def ratio(edit: float, retrain: float) -> str:
    """How much an edit costs beside one retraining.

    Example:
        >>> ratio(1.0, 8.0), ratio(9.0, 10.0), ratio(30.0, 10.0)
        ('1/8 of one retraining', '90 % of one retraining', '3.0 times one retraining')
    """
    share = edit / retrain
    if share > 1.05:
        return f"{number(share, digits=2)} times one retraining"
    if share >= 0.55:
        return f"{share:.0%} of one retraining".replace("%", " %")
    return f"1/{1 / share:,.0f} of one retraining"


def share(value: float) -> str:
    """A share as a percentage, "–" when it is not known."""
    return f"{100 * value:.3g} %" if math.isfinite(value) else "–"


def counted(value: float, total: int) -> str:
    """A share of a known number of models as a count of them ("39 of 40")."""
    return f"{round(value * total)} of {total}" if total and math.isfinite(value) else "none judged"


def span(ends: tuple[float, float]) -> str:
    """An interval of a share in percent; empty when there is none."""
    low, high = ends
    return f"{100 * low:.0f}–{100 * high:.0f} %" if math.isfinite(low) and math.isfinite(high) else ""


def unit(m: Measurement) -> str:
    """The unit as it follows a figure; a share needs none."""
    return f" {m.unit}" if m.unit and m.unit != "share" else ""


def value_text(m: Measurement, *, interval_too: bool = True) -> str:
    """The edited model's figure with its unit and, unless told otherwise, its interval."""
    if m.value is None or not math.isfinite(m.value):
        return "not measured"
    ends = f" ({interval(m.interval)})" if m.interval and interval_too else ""
    return f"{number(m.value)}{unit(m)}{ends}"


def oracle_text(m: Measurement) -> str:
    """Mean and spread over the retrained models."""
    if m.oracle_mean is None:
        return "–"
    spread = f" ± {number(m.oracle_spread, digits=2)}" if m.oracle_spread is not None else ""
    return f"{number(m.oracle_mean)}{spread}{unit(m)}"
