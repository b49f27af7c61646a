"""What an audit finds, and how it shows itself in a notebook."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from tests.audit import cases
from tests.report.page import Page
from unweave.audit.notebook import TONES
from unweave.audit.result import OUTCOMES, Audit, Check, Control, Verdict
from unweave.errors import InputError
from unweave.report.audits import render_html
from unweave.types import Measurement


def drawing(outcome: str = "erased", **more: object) -> Audit:
    """An audit of a pipeline."""
    verdict = Verdict(outcome=outcome, reason="8 % of the images show a cat.", next_step="Draw more.")
    figure = Measurement(
        name="erased concepts drawn", value=8.0, unit="%", direction="near the retrained", n=60, interval=(3.0, 18.0),
        original=97.0, oracle_mean=5.0, oracle_spread=1.25,
    )  # fmt: skip
    control = Control(
        name="images in which the judge sees it", expected="at least 50 %", got="97 %", passed=True
    )
    return Audit(
        kind="drawing", method="uce", verdict=verdict, controls=(control,), measurements=(figure,), **more
    )


@pytest.mark.parametrize("kind", list(OUTCOMES))
def test_the_outcomes_that_pass_are_few_and_each_looks_its_own(kind) -> None:
    audits = [Audit(kind=kind, method="m", verdict=Verdict(outcome=o, reason="")) for o in OUTCOMES[kind]]
    passing = ["erased"] if kind == "drawing" else ["forgotten", "exact"]
    assert [a.verdict.outcome for a in audits if a.passed] == passing
    assert len({a.word.symbol for a in audits}) == len({a.word.meaning for a in audits}) == len(audits)


def test_an_outcome_of_another_kind_is_refused() -> None:
    with pytest.raises(
        InputError, match="unknown outcome 'forgotten': a drawing audit has erased, not erased,"
    ):
        drawing("forgotten")


@pytest.mark.parametrize(("power", "passed"), [(True, None), (False, True), (False, False)])
def test_a_test_without_power_neither_passes_nor_fails(power, passed) -> None:
    with pytest.raises(InputError, match="does neither if it has none"):
        Check(name="x", half="memory", power=power, passed=passed)


def test_sentences_of_controls() -> None:
    says = lambda expected, got, passed: Control(name="x", expected=expected, got=got, passed=passed).sentence  # noqa: E731
    assert says("forgotten", "forgotten", True) == "x: called forgotten, as it must be"
    assert says("forgotten", "collapsed", False) == "x: called collapsed, but must be called forgotten"
    assert (
        says("anything but forgotten", "forgotten", False)
        == "x: called forgotten, but must be called anything but forgotten"
    )
    assert says("at least 50 %", "20 %", False) == "x: 20 %, but must be at least 50 %"


def test_a_notebook_shows_verdict_controls_and_figures_of_a_classifier() -> None:
    audit = cases.audit("forgotten")
    text = Page(audit._repr_html_()).text
    for wanted in (
        "✓ Forgotten",
        "unprune + salun",
        audit.word.meaning,
        audit.verdict.reason,
        "Position 0.97 (0 holds the data, 1 retrained; retrained models: 0.710 to 1.28; models that hold the data: −0.220 to",
        "✓ original model: called not forgotten, as it must be",
        "✓ relearn time: like a retrained model (position 0.91)",
        "? mask overlap: cannot tell here",
        "accuracy on forgotten examples 86.8 % (84.7 to 88.9) 99.2 % 86.4 ± 1.4 % 500",
        "U-LiRA not measured – – 0",
    ):
        assert wanted in text


def test_a_notebook_shows_verdict_controls_and_figures_of_a_pipeline() -> None:
    text = Page(drawing()._repr_html_()).text
    for wanted in (
        "✓ Erased uce",
        OUTCOMES["drawing"]["erased"].meaning,
        "8 % of the images show a cat. Draw more.",
        "✓ images in which the judge sees it: 97 %, as it must be",
        "erased concepts drawn 8.00 % (3.00 to 18.0) 97.0 % 5.00 ± 1.2 % 60",
    ):
        assert wanted in text
    assert "Position" not in text


@pytest.mark.parametrize("found", [cases.hostile(), cases.audit(), drawing("damaged")])
def test_a_notebook_fragment_stands_alone_and_runs_nothing(found) -> None:
    fragment = found._repr_html_()
    page = Page(fragment)
    assert page.stack == []
    assert {tag for tag, _ in page.tags} <= {"div", "span", "table", "thead", "tbody", "tr", "th", "td"}
    assert {name for _, attributes in page.tags for name in attributes} == {"style"}
    assert "url(" not in fragment
    # whatever the user wrote comes out as text, everywhere
    if found.method == cases.ODD:
        assert page.text.count(cases.ODD) >= 7


def test_the_notebook_takes_the_reports_colours() -> None:
    page = render_html([cases.audit()], {})
    light = dict(re.findall(r"--([\w-]+): (#\w+)", page.partition("@media")[0]))
    for outcome, word in OUTCOMES["classifier"].items():
        assert TONES[word.symbol] == light[outcome.replace(" ", "-")]
    assert {w.symbol for words in OUTCOMES.values() for w in words.values()} == set(TONES)


def test_panels_are_found_by_name() -> None:
    audit = cases.audit(sparse=True)
    assert set(audit.samples("scores")) == {"original", "edited", "oracle"}
    assert set(audit.rows("layers")["conv1.weight"]) == {"edited", "original", "iou_original", "iou_oracle"}
    assert replace(audit, panels=()).rows("layers") == {}
    assert audit.samples("classes") == {}
