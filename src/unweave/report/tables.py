"""Tables for a terminal, in the words of the pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.table import Table

from ..statistics import Summary
from ..types import Measurement
from . import words


def table(columns: Sequence[str], *, left: Sequence[str] = ()) -> Table:
    """An empty table without lines; columns named in `left` are aligned left, the others right."""
    made = Table(box=None, pad_edge=False)
    for heading in columns:
        made.add_column(heading, justify="left" if heading in left else "right")
    return made


def measurements(method: str, measured: Sequence[Measurement]) -> Table:
    """Every figure of an edited model beside the original's and the retrained ones'."""
    made = table((method, "edited", "original", "retrained", "unit"), left=(method, "unit"))
    for m in measured:
        spread = "" if m.oracle_spread is None else f" ± {words.number(m.oracle_spread)}"
        oracle = "–" if m.oracle_mean is None else words.number(m.oracle_mean) + spread
        made.add_row(m.name, words.number(m.value), words.number(m.original), oracle, m.unit)
    return made


def comparison(
    figures: Mapping[str, Mapping[str, Summary]], units: Mapping[str, str], baseline: str
) -> Table:
    """Figure -> method -> summary as rows, the figure named on its first."""
    columns = (
        "figure", "method", "mean ± spread", f"difference from {baseline} (95 % interval)", "seeds"
    )  # fmt: skip
    made = table(columns, left=("figure", "method"))
    for figure, rows in figures.items():
        for i, (method, s) in enumerate(rows.items()):
            title = f"{figure}{', ' + units[figure] if units[figure] else ''}" if i == 0 else ""
            made.add_row(title, method, mean_text(s), difference_text(s), str(len(s.values)))
    return made


def mean_text(s: Summary) -> str:
    """Mean and spread over the seeds."""
    return words.number(s.mean) + ("" if s.spread != s.spread else f" ± {words.number(s.spread)}")


def difference_text(s: Summary) -> str:
    """Mean difference from the baseline with its interval; a dash for the baseline itself."""
    if not s.differences:
        return "–"
    low, high = s.difference_interval
    return words.number(s.difference) + (
        "" if low != low else f" ({words.number(low)} to {words.number(high)})"
    )
