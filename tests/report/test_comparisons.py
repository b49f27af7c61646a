"""Methods compared over seeds, as a table for a terminal and as a page."""

from __future__ import annotations

import math
from io import StringIO
from typing import Any

from rich.console import Console

from unweave.report import tables
from unweave.report.comparisons import render_comparison, units_of
from unweave.statistics import Summary, Trial, summarise
from unweave.types import Measurement

TRIALS = [
    *(Trial("plain", s, {"accuracy": 90.0 + s, "steps": 40.0}, {"accuracy": "%", "steps": ""}) for s in (0, 1)),
    *(Trial("other", s, {"accuracy": 92.0 + 3 * s}, {"accuracy": "%"}) for s in (0, 1)),
    Trial("broken", 0, error="no luck <b>"),
]  # fmt: skip
FIGURES = summarise(TRIALS, "plain")


def printed(table: Any) -> list[list[str]]:
    out = StringIO()
    Console(file=out, width=200).print(table)
    return [line.split() for line in out.getvalue().splitlines()]


def test_a_mean_has_its_spread_and_a_difference_its_interval_where_there_are_two() -> None:
    rows = FIGURES["accuracy"]
    assert tables.mean_text(rows["plain"]) == "90.5 ± 0.707"
    assert tables.difference_text(rows["plain"]) == "–"
    half = 12.706204736432095 * math.sqrt(2) / math.sqrt(2)  # Student's t with one degree of freedom
    assert tables.difference_text(rows["other"]) == f"3.00 (−{half - 3:.2f} to {half + 3:.1f})"
    alone = Summary(
        values=[3.0], mean=3.0, spread=math.nan, interval=(math.nan, math.nan), differences=[-1.5], difference=-1.5
    )  # fmt: skip
    assert tables.mean_text(alone) == "3.00"
    assert tables.difference_text(alone) == "−1.50"


def test_a_figure_is_named_on_its_first_row_with_its_unit() -> None:
    rows = printed(tables.comparison(FIGURES, units_of(TRIALS), "plain"))
    assert rows[0][:2] == ["figure", "method"]
    assert rows[1][:3] == ["accuracy,", "%", "plain"]
    assert rows[2][0] == "other"
    assert rows[3][:2] == ["steps", "plain"]
    assert [row[-1] for row in rows[1:]] == ["2", "2", "2"]


def test_a_measurement_stands_beside_the_retrained_ones() -> None:
    figures = [
        Measurement(
            name="gap", value=1.5, unit="points", direction="", n=1, original=20.0, oracle_mean=1.0, oracle_spread=0.25
        ),
        Measurement(name="time", value=None, unit="s", direction="", n=1, oracle_mean=8.0),
    ]  # fmt: skip
    rows = printed(tables.measurements("salun", figures))
    assert rows[0] == ["salun", "edited", "original", "retrained", "unit"]
    assert rows[1] == ["gap", "1.50", "20.0", "1.00", "±", "0.250", "points"]
    assert rows[2] == ["time", "–", "–", "8.00", "s"]


def test_the_page_has_a_picture_of_the_differences_and_of_failures_the_reason() -> None:
    page = render_comparison(TRIALS, FIGURES, baseline="plain", subject="points", run={"seed": 0})
    assert "3 methods over 2 seeds; differences are from plain, seed by seed." in page
    assert "1 of 5 trials failed" in page
    assert "no luck &lt;b&gt;" in page
    assert page.count("Accuracy: difference from plain") == 1
    assert "Steps: difference from plain" not in page  # only the baseline has it
    differences = page.partition("Accuracy: difference from plain")[2].partition("<h2")[0]
    assert "other: 2 runs, mean 3.00" in differences
    assert "plain: 2 runs" not in differences
    whole = [t for t in TRIALS if not t.error]
    assert "failed" not in render_comparison(
        whole, FIGURES, baseline="plain", subject="points", run={"seed": 0}
    )
