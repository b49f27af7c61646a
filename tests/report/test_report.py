from __future__ import annotations

import dataclasses
import html
import json
import math
import os
import re
from collections.abc import Iterator
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.audit import browser as web
from tests.audit import cases
from tests.report.page import Page
from unweave.audit.result import OUTCOMES as KINDS
from unweave.audit.result import Audit, Control, Rows, Samples, Verdict
from unweave.errors import InputError
from unweave.report import marks, pictures, words
from unweave.report.audits import from_json, render_html, render_markdown, to_json
from unweave.types import Measurement

WORDS = KINDS["classifier"]
OUTCOMES = tuple(WORDS)


def test_json_keeps_every_figure_and_both_ways_agree() -> None:
    audits = tuple(a for group in cases.of_every_outcome().values() for a in group if a.method != cases.ODD)
    assert from_json(to_json(audits)) == audits


def test_json_is_strict_where_figures_are_not_finite() -> None:
    text = to_json([cases.hostile()])
    record = json.loads(text, parse_constant=lambda c: pytest.fail(f"{c} in JSON"))
    (read,) = from_json(text)
    assert record["audits"][0]["measurements"][0]["value"] is None
    assert read.verdict.accepted == (-math.inf, 1.5)
    assert read.verdict.rejected == (0.2, math.inf)
    assert read.measurements[0].direction == cases.ODD
    assert math.isnan(read.samples("scores")["edited"][0])


def test_the_word_and_its_reason_stand_at_the_head_of_a_stored_audit():
    audit = cases.audit()
    record = json.loads(to_json([audit]))["audits"][0]
    assert list(record)[:2] == ["outcome", "reason"]
    assert record["outcome"] == audit.verdict.outcome == record["verdict"]["outcome"]
    assert record["reason"] == audit.verdict.reason == record["verdict"]["reason"]


def test_json_names_each_measurement_in_full() -> None:
    record = json.loads(to_json([cases.audit()]))["audits"][0]["measurements"][0]
    wanted = {
        "name",
        "value",
        "unit",
        "direction",
        "n",
        "interval",
        "original",
        "oracle_mean",
        "oracle_spread",
        "note",
    }
    assert set(record) == wanted
    assert record["unit"] == "%"
    assert record["n"] == 500


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.update(format="other"), "must be 'unweave audit'"),
        (lambda r: r.update(version=3), "version 3"),
        (lambda r: r["audits"][0].pop("verdict"), "incomplete or damaged"),
        (lambda r: r["audits"][0]["verdict"].update(outcome="fine"), "unknown outcome"),
        (
            lambda r: r["audits"][0]["verdict"].update(outcome="erased"),
            "unknown outcome 'erased': a classifier audit",
        ),
        (
            lambda r: r["audits"][0].update(kind="poem"),
            "one of classifier, drawing, language expected, got 'poem'",
        ),
        (lambda r: r["audits"][0]["verdict"]["checks"][0].update(passed=None), "does neither if it has none"),
        (lambda r: r["audits"][0]["panels"][0].update(name="maps"), "one of scores expected"),
        (lambda r: r["audits"][0]["panels"][1].update(name="maps"), "one of classes, layers, .* expected"),
        (lambda r: r["audits"][0]["verdict"].update(accepted=[1.0]), "incomplete or damaged"),
        (lambda r: r["audits"][0]["measurements"][0].update(value="5"), "a number expected"),
        (lambda r: r["audits"][0]["controls"][0].update(passed="no"), "true or false expected"),
        (lambda r: r.update(audits=5), "incomplete or damaged"),
    ],
)
def test_damaged_json_is_refused_with_the_reason(change, message) -> None:
    record = json.loads(to_json([cases.audit()]))
    change(record)
    with pytest.raises(InputError, match=message):
        from_json(json.dumps(record))


FIGURE = {
    "name": "accuracy", "value": 5.0, "unit": "%", "direction": "up", "n": 3, "interval": [4.0, None],
    "original": None, "oracle_mean": 6.0, "oracle_spread": None, "note": "",
}  # fmt: skip


def test_the_first_version_of_a_classifiers_audit_is_read() -> None:
    control = {"name": "original model", "expected": "not forgotten", "got": "forgotten", "passed": False}
    verdict = {
        "outcome": "collapsed", "reason": "r", "position": 0.5, "accepted": [0.9, None], "rejected": None, "caveats": ["c"],
    }  # fmt: skip
    audit = {
        "method": "m", "verdict": verdict, "controls": [control], "rates": None, "measurements": [FIGURE],
        "scores": {"edited": [1.0], "held": [2.0]}, "per_class": {"3": {"edited": 50.0}}, "layers": {},
    }  # fmt: skip
    (read,) = from_json(json.dumps({"format": "unweave audit", "version": 1, "audits": [audit]}))
    assert read == Audit(
        kind="classifier",
        method="m",
        verdict=Verdict(
            outcome="collapsed", reason="r", position=0.5, accepted=(0.9, math.inf), caveats=("c",)
        ),
        controls=(Control(**control),),
        measurements=(Measurement(**{**FIGURE, "interval": (4.0, math.inf)}),),
        panels=(
            Samples(name="scores", unit="nats", samples={"edited": [1.0], "holders": [2.0]}),
            Rows(name="classes", unit="%", rows={"3": {"edited": 50.0}}),
        ),
    )


def test_the_first_version_of_a_pipelines_audit_is_read() -> None:
    audit = {
        "method": "uce", "verdict": "erased", "reason": "r", "controls": [["seen (97 %)", True], ["not drawn", False]],
        "measurements": [FIGURE], "concepts": {"cat": {"edited": 5.0}},
    }  # fmt: skip
    record = {"format": "unweave erasure", "version": 1, "audits": [audit], "in turn": {"cat": {"cat": 0.0}}}
    (read,) = from_json(json.dumps(record))
    assert (read.kind, read.verdict) == ("drawing", Verdict(outcome="erased", reason="r"))
    assert [(c.name, c.passed) for c in read.controls] == [("seen (97 %)", True), ("not drawn", False)]
    assert read.rows("concepts") == {"cat": {"edited": 5.0}}
    assert read.rows("turns") == {"cat": {"cat": 0.0}}
    with pytest.raises(InputError, match="incomplete or damaged"):
        from_json(json.dumps(record | {"audits": []}))


@pytest.mark.parametrize(
    "text", ["", "[", "[]", "null", '{"format": "unweave audit", "version": NaN}', "[" * 100_000]
)
def test_text_that_is_no_audit_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        from_json(text)


def small():
    """An audit with little of everything, so that a value drawn at random is soon one of each kind."""
    found = cases.audit(sparse=True)
    scores = Samples(name="scores", unit="nats", samples={"edited": [1.0]})
    return dataclasses.replace(found, panels=(scores, *found.panels[1:]))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_json_with_one_value_replaced_is_read_or_refused(data) -> None:
    record = json.loads(to_json([small()]))
    node, key = record, "audits"
    while data.draw(st.booleans()) and isinstance(node[key], dict | list) and node[key]:
        node = node[key]
        key = data.draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node))))
    junk = (
        st.none()
        | st.booleans()
        | st.integers()
        | st.text(max_size=3)
        | st.just([])
        | st.just({})
        | st.just([[None]])
    )
    node[key] = data.draw(junk)
    try:
        read = from_json(json.dumps(record))
    except InputError:
        return
    assert from_json(to_json(read)) is not None


@pytest.mark.parametrize("render", [render_html, render_markdown])
def test_no_audit_is_refused(render) -> None:
    with pytest.raises(InputError, match="at least one audit"):
        render([], cases.RUN, [])


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_verdict_comes_first_with_word_shape_and_meaning(outcome) -> None:
    audit = cases.audit(outcome)
    page = render_html([audit], cases.RUN, [cases.PUBLISHED])
    text = Page(page).text
    assert Page(page).stack == ["html"] or Page(page).stack == []
    found = [text.index(p) for p in (WORDS[outcome].symbol, WORDS[outcome].meaning, audit.verdict.reason)]
    assert found == sorted(found)
    assert max(found) < text.index("Can this verdict be trusted?") < text.index("Caveats and limits")
    if "The evidence in pictures" in text:
        assert (
            text.index("Caveats and limits")
            < text.index("The evidence in pictures")
            < text.index("All measurements")
        )
    assert f'<section class="verdict {outcome.replace(" ", "-")}"' in page
    markdown = render_markdown([audit], cases.RUN, [cases.PUBLISHED])
    assert markdown.startswith(f"# {WORDS[outcome].symbol} {outcome.capitalize()}\n")


def test_every_outcome_has_its_own_word_shape_and_colour() -> None:
    page = render_html([cases.audit()], cases.RUN, [])
    colours = {o: re.search(rf"--{o.replace(' ', '-')}: (#\w+)", page)[1] for o in OUTCOMES}
    assert len(set(colours.values())) == len({w.symbol for w in WORDS.values()}) == len(OUTCOMES)


@pytest.mark.parametrize("render", [render_html, render_markdown])
def test_report_says_its_error_rates_controls_and_limits(render) -> None:
    text = html.unescape(render([cases.audit()], cases.RUN, [cases.PUBLISHED]))
    for wanted in (
        "39 of 40",
        "38 of 40",
        "never seen before",
        "87–100 %",
        "8 of 8",
        "7 of 8",
        cases.PUBLISHED.source,
    ):
        assert wanted in text
    assert "original model: called not forgotten, as it must be" in text
    assert "technical evidence, not a finding of legal compliance" in text
    assert "500 of 16,000 training examples, ids from delete.txt" in text


@pytest.mark.parametrize("render", [render_html, render_markdown])
def test_without_oracle_the_report_says_what_cannot_be_concluded(render) -> None:
    audit = cases.audit("inconclusive")
    bare = dataclasses.replace(audit, verdict=dataclasses.replace(audit.verdict, caveats=()))
    assert "forgetting cannot be told from a change of any kind" in render([audit], {}, [])
    assert "it cannot be said whether this model has forgotten" in render([bare], {}, [])
    assert "error rates of this verdict are not known" in render([bare], {}, [])
    assert words.ONLY_WITH_ORACLES in render([bare], {}, [cases.PUBLISHED])
    assert words.ONLY_WITH_ORACLES not in render([cases.audit()], {}, [cases.PUBLISHED])


@pytest.mark.parametrize("render", [render_html, render_markdown])
def test_tests_say_whether_they_could_tell(render) -> None:
    text = html.unescape(render([cases.audit()], cases.RUN))
    for wanted in (
        "relearn time: like a retrained model (position 0.91)",
        "representation probe: like a model that holds the data (position 0.20)",
        "mask overlap: cannot tell here",
    ):
        assert wanted in text


@pytest.mark.parametrize("render", [render_html, render_markdown])
def test_the_next_step_stands_behind_the_reason(render) -> None:
    audit = cases.audit("inconclusive")
    audit = dataclasses.replace(audit, verdict=dataclasses.replace(audit.verdict, next_step="Train 12 more."))
    assert f"{audit.verdict.reason} Train 12 more." in render([audit], {})


@pytest.mark.parametrize("render", [render_html, render_markdown])
def test_failed_control_is_shown_as_failed(render) -> None:
    text = html.unescape(render([cases.hostile()], {}, []))
    assert "✕" in text
    assert "called inconclusive, but must be called forgotten" in text
    assert "got a known case wrong" in text


def test_user_text_is_text_in_html() -> None:
    run = {"request": cases.ODD, "command": cases.ODD, "model": cases.ODD, cases.ODD: {cases.ODD: cases.ODD}}
    page = render_html([cases.hostile()], run, [dataclasses.replace(cases.PUBLISHED, source=cases.ODD)])
    parsed = Page(page)
    assert not any(tag == "script" for tag, _ in parsed.tags)
    assert cases.ODD in parsed.text
    assert "<script" not in page


def test_user_text_is_text_in_markdown() -> None:
    markdown = pytest.importorskip("markdown")
    run = {"request": cases.ODD, "command": "a ``` b", cases.ODD: cases.ODD}
    shown = markdown.markdown(
        render_markdown([cases.hostile()], run, []), extensions=["tables", "fenced_code"]
    )
    assert "<script" not in shown
    assert "href" not in shown
    assert "<em>b" not in shown


@pytest.mark.parametrize(("command", "fence"), [("a `b` c", "```"), ("a ``` b ```` c", "`````")])
def test_a_command_stands_in_a_fence_longer_than_its_own(command: str, fence: str) -> None:
    text = render_markdown([cases.audit()], {"command": command}, [])
    assert f"\n{fence}\n{command}\n{fence}\n" in text


def test_page_loads_nothing_and_runs_nothing() -> None:
    parsed = Page(render_html([cases.audit(sparse=True)], cases.RUN, [cases.PUBLISHED]))
    for tag, attributes in parsed.tags:
        assert tag not in {"script", "iframe", "object", "embed", "base", "form"}
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in {"src", "href"}:
                assert (value or "").startswith(("#", "data:"))
    assert "default-src 'none'" in str(parsed.tags)


def test_pictures_have_words_and_headings_are_in_order() -> None:
    parsed = Page(render_html([cases.audit(sparse=True)], cases.RUN, [cases.PUBLISHED]))
    images = [a for tag, a in parsed.tags if tag == "svg" and a.get("role") == "img"]
    assert len(images) > 40
    assert all(a.get("aria-label") for a in images)
    assert any("unprune + salun: position 0.97" in (a["aria-label"] or "") for a in images)
    levels = [int(tag[1]) for tag, _ in parsed.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in zip(levels, levels[1:], strict=False))
    names = [a["id"] for _, a in parsed.tags if a.get("id")]
    assert len(names) == len(set(names))
    for _, a in parsed.tags:
        assert a.get("aria-labelledby", names[0]) in names


def test_further_methods_are_compared_on_one_line() -> None:
    audits = cases.of_every_outcome()["forgotten"]
    drawn = str(pictures.position(audits))
    assert [drawn.index(a.method) for a in audits] == sorted(drawn.index(a.method) for a in audits)
    for word in ("✓ forgotten", "✕ not forgotten", "▲ over-forgotten"):
        assert word in drawn
    table = render_markdown(audits, cases.RUN, [])
    assert "| fine-tune | not forgotten | 0.08 | 29 s |" in table


def test_a_mark_lies_where_its_value_is() -> None:
    scale = marks.Scale(0.0, 4.0)
    assert [scale.at(v) for v in (0, 1, 4, 9, -math.inf)] == [2, 26, 98, 98, 2]
    assert scale.ticks(4) == [0, 1, 2, 3, 4]
    drawn = pictures.dumbbells(
        {"cat": {"edited": 10.0, "original": 20.0}}, {"edited": "e", "original": "o"},
        unit="%", apart=("edited", "original"), figure="edited", ends=(0.0, 40.0),
    )  # fmt: skip
    row = ElementTree.fromstring(
        re.search(r"<svg width.*?aria-label=\"cat.*?</svg>(?=</div>)", str(drawn))[0]
    )
    at = {s.find("*").get("class"): s.get("x") for s in row.iter("svg") if s.get("class") == "spot"}
    assert at == {"mark edited": "26.00%", "mark original": "50.00%"}  # 2 + 96 * 10 / 40 and 2 + 96 * 20 / 40


def test_histogram_bars_count_the_examples() -> None:
    values = [0.0] * 30 + [10.0] * 10
    drawn = str(pictures.scores({"edited": values, "original": [0.0] * 40}))
    tall = {h for h in re.findall(r'class="fill edited"[^>]*height="([\d.]+)"', drawn)}
    assert tall == {"34.5", "11.5"}  # 46 pixels for all 40: 30 and 10 of them


def test_a_few_extreme_scores_do_not_squeeze_the_others_into_one_bar() -> None:
    values = [k / 400 for k in range(400)]
    drawn = str(pictures.scores({"edited": [*values, 1e6], "original": [*values, -1e6]}))
    assert drawn.count('class="fill edited"') > 25
    assert drawn.count('class="fill original"') > 25


def test_many_rows_are_cut_to_those_that_differ_most_and_the_table_keeps_all() -> None:
    many = {f"class {k}": {"edited": 50.0 + (20 if k == 77 else 0), "oracle": 50.0} for k in range(100)}
    page = render_html(
        [dataclasses.replace(cases.audit(), panels=(Rows(name="classes", unit="%", rows=many),))],
        cases.RUN,
        [],
    )
    assert "the 24 of 100 rows that differ most" in page
    assert "class 77: retrained models 50.0, edited model 70.0" in page
    assert '<th scope="row">class 63</th>' in page


def test_cost_is_told_against_one_retraining() -> None:
    page = render_html([cases.audit()], {"cost": {"retrain": 400.0, "edit": 50.0}}, [])
    assert "1/8 of one retraining" in page
    assert "6 min 40 s" in page
    assert "1/8 of one retraining" in render_markdown(
        [cases.audit()], {"cost": {"retrain": 400.0, "edit": 50.0}}, []
    )
    assert "What it cost" not in render_html([cases.audit()], {}, [])


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[web.Browser]:
    if (web.CHROMIUM is None or web.DRIVER is None) and not os.environ.get("CI"):
        pytest.skip("chromium and chromedriver are not installed")
    with web.browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.mark.parametrize("name", list(cases.of_every_outcome()))
@pytest.mark.parametrize(("width", "height"), [(360, 800), (1280, 900)])
def test_browser_shows_the_verdict_first_and_never_scrolls_sideways(
    window, tmp_path, name, width, height
) -> None:
    page = tmp_path / "report.html"
    page.write_text(
        render_html(cases.of_every_outcome()[name], cases.RUN, [cases.PUBLISHED]), encoding="utf-8"
    )
    window.resize(width, height)
    window.open(page)
    window.run("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert window.run("return innerWidth") == width
    assert window.run("return document.documentElement.scrollWidth") <= width
    assert (
        window.run("return document.querySelector('.verdict .reason').getBoundingClientRect().bottom")
        < height
    )
    assert window.run("return performance.getEntriesByType('resource').length") == 0
    spill = """return [...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll, pre, svg')
        && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"""
    assert window.run(spill) == []
    assert window.complaints() == []


@pytest.mark.parametrize("dark", [False, True])
def test_browser_text_stands_out_from_its_background(window, tmp_path, dark) -> None:
    page = tmp_path / "report.html"
    page.write_text(render_html(cases.of_every_outcome()["forgotten"], cases.RUN, []), encoding="utf-8")
    window.resize(1280, 900, dark=dark)
    window.open(page)
    colours = window.run("""const s = getComputedStyle(document.documentElement); return Object.fromEntries(
        'paper card ink soft forgotten not-forgotten over-forgotten collapsed inconclusive'.split(' ')
        .map(n => [n, s.getPropertyValue('--' + n).trim()]))""")
    for name in set(colours) - {"paper", "card"}:
        for ground in ("paper", "card"):
            assert _contrast(colours[name], colours[ground]) >= 4.5, (name, ground)  # WCAG 2, level AA


def _contrast(a: str, b: str) -> float:
    def light(colour: str) -> float:
        parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
        r, g, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
        return 0.2126 * r + 0.7152 * g + 0.0722 * blue

    high, low = sorted((light(a), light(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)
