"""Figures as people read them, on either side of every boundary."""

from __future__ import annotations

import math

import pytest

from unweave.audit.shown import (
    counted,
    interval,
    number,
    oracle_text,
    place,
    ratio,
    seconds,
    share,
    span,
    value_text,
)
from unweave.types import Measurement


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"), (math.nan, "–"), (math.inf, "–"), (0.0, "0"), (-0.0, "0"), (1.0, "1.00"), (999.4, "999"),
        (1234.5, "1,234"), (0.001, "0.00100"), (0.00099, "0.00099"), (-0.00012345, "−0.000123"), (2.5e9, "2.5e+09"),
        (-12.345, "−12.3"),
    ],
)  # fmt: skip
def test_numbers(value: float | None, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.99, "0.99 s"), (1.0, "1.0 s"), (9.94, "9.9 s"), (10.0, "10 s"), (59.4, "59 s"), (60.0, "1 min"),
        (61.0, "1 min 1 s"), (3599.0, "59 min 59 s"), (3599.6, "1 h"), (3600.0, "1 h"), (3660.0, "1 h 1 min"),
        (90000.0, "25 h"),
    ],
)  # fmt: skip
def test_durations(value: float, text: str) -> None:
    assert seconds(value) == text


@pytest.mark.parametrize(
    ("edit", "text"),
    [
        (0.1, "1/1,000"), (33.0, "1/3"), (54.0, "1/2"), (55.0, "55 %"), (100.0, "100 %"), (105.0, "105 %"),
        (106.0, "1.1 times"), (140.0, "1.4 times"), (2000.0, "20 times"),
    ],
)  # fmt: skip
def test_ratios(edit: float, text: str) -> None:
    of = "" if "times" in text else " of"
    assert ratio(edit, 100.0) == f"{text}{of} one retraining"


def test_positions_shares_and_intervals() -> None:
    assert [place(v) for v in (0.126, -0.5, None, math.inf)] == ["0.13", "−0.50", "–", "–"]
    assert [share(v) for v in (0.0625, 1.0, math.nan)] == ["6.25 %", "100 %", "–"]
    assert [counted(v, n) for v, n in ((0.975, 40), (0.5, 0), (math.nan, 3))] == [
        "39 of 40", "none judged", "none judged"
    ]  # fmt: skip
    assert [span(v) for v in ((0.868, 0.999), (math.nan, 1.0))] == ["87–100 %", ""]
    assert [interval(v) for v in ((1.5, -2.0), None)] == ["1.50 to −2.00", ""]


def test_a_measurement_has_its_unit_interval_and_spread() -> None:
    figure = Measurement(
        name="x", value=91.25, unit="%", direction="", n=4, interval=(90.0, 92.0), oracle_mean=90.5, oracle_spread=0.123
    )  # fmt: skip
    assert value_text(figure) == "91.2 % (90.0 to 92.0)"
    assert value_text(figure, interval_too=False) == "91.2 %"
    assert oracle_text(figure) == "90.5 ± 0.12 %"
    bare = Measurement(name="x", value=None, unit="share", direction="", n=4, oracle_mean=0.5)
    assert value_text(bare) == "not measured"
    assert oracle_text(bare) == "0.500"
    assert oracle_text(Measurement(name="x", value=1.0, unit="s", direction="", n=1)) == "–"
