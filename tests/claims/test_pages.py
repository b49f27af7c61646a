from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from claims import pages
from claims.effects import Effect, Finding
from claims.forest import SIGN, Axis, figures, forest, legend, signed
from claims.framework import claim_names, claim_status, findings, read_claim, read_result

PAGES = pages.pages()


def finding(*differences: float, **effect: object) -> Finding:
    measured = [{"a": d, "b": 0.0, "floor": 2.0} for d in differences]
    return Effect("a over b", better="a", worse="b", **effect).on(measured)


def slug(heading: str) -> str:
    """Of a heading, as the site's Markdown makes it."""
    toc = pytest.importorskip("markdown.extensions.toc", reason="the docs extra is not installed")
    return toc.slugify(heading, "-")


def test_axis_is_one_of_square_roots() -> None:
    axis = Axis(-4.0, 9.0)
    assert [axis.at(v) for v in (-4.0, 0.0, 9.0)] == pytest.approx([3.0, 3 + 94 * 2 / 5, 97.0])
    assert axis.at(1.0) - axis.at(0.0) == pytest.approx(axis.at(4.0) - axis.at(1.0))
    assert axis.at(-1.0) - axis.at(0.0) == pytest.approx(-(axis.at(1.0) - axis.at(0.0)))


def test_axis_reaches_whatever_is_drawn() -> None:
    axis = Axis.of(
        [finding(1, 2, 3), finding(4, 5, 6, paper=-7.0), finding(4, 5, 6, margin=20, floor="floor")]
    )
    assert (axis.low, axis.high) == (-7.0, 20.0)
    assert Axis.of([finding(1, 2, 3, floor="floor")]).low == -2.0
    alone = Axis.of([finding(10, 10, 10)])
    assert (alone.low, alone.high) == (-1.0, 10.0), "there is room on the other side of 0"
    assert Axis.of([finding(0, 0, 0)]).low < 0


def test_ticks_are_round_apart_and_hold_zero() -> None:
    for axis in (Axis(-40.0, 90.0), Axis(-1e-7, 1e-6), Axis(-0.5, 0.02), Axis(-1.0, 0.1)):
        ticks = axis.ticks()
        assert 0.0 in ticks
        assert len(ticks) >= 2
        assert all(axis.low <= t <= axis.high for t in ticks)
        places = [axis.at(t) for t in ticks]
        assert min(b - a for a, b in zip(places, places[1:], strict=False)) >= 11
        assert all(re.fullmatch(r"[125](\.0+)?(e[-+]\d+)?", f"{abs(t):e}") for t in ticks if t)


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ((1, 2, 3), "+2.00 [−0.48, +4.48]"),
        ((100, 110, 120), "+110 [+85, +135]"),
        ((0.1, 0.2, 0.3), "+0.20 [−0.05, +0.45]"),
        ((-1e-9, 0, 1), "+0.33 [−1.10, +1.77]"),
        ((0, 0, 0), "0 [0, 0]"),
        ((1e-6, 1e-6, 1e-6), "+1e−06 [+1e−06, +1e−06]"),
    ],
)
def test_figures_have_like_precision(values, wanted) -> None:
    assert figures(finding(*values)).replace("\u00a0", " ") == wanted


def test_no_minus_before_a_zero() -> None:
    assert signed(-1e-9, 2.0) == "0"


def test_forest_draws_each_mark_where_it_belongs() -> None:
    found = finding(1, 2, 3, margin=1.0, paper=4.0, floor="floor")
    axis = Axis.of([found])
    plot = forest({"A <b>": [found]}, "points")
    assert "\n\n" not in plot, "Markdown would end the block"
    tree = ElementTree.fromstring(plot.replace("<b>", "<b/>"))
    row = tree.findall("div")[-1]
    svg = row.find(".//svg[@role='img']")
    assert svg.get("aria-label") == "a over b: +2.00 [−0.48,\u00a0+4.48] points, not shown; the paper +4.00"

    def at(value: float) -> str:
        return f"{axis.at(value):.2f}%"

    whisker, margin = svg.find("*[@class='whisker']"), svg.find("*[@class='margin']")
    assert (whisker.get("x1"), whisker.get("x2")) == tuple(map(at, found.interval))
    assert margin.get("x1") == at(1.0)
    assert svg.find("*[@class='dot not-shown']").get("cx") == at(2.0)
    assert svg.find("svg").get("x") == at(4.0)
    assert svg.find("*[@class='floor']").get("x") == at(-2.0)
    assert row.find("div[@class='forest-name']").text == "a over b"
    bare = forest({"": [finding(1, 2, 3)]}, "points")
    assert not re.search(r'class="(margin|paper|floor|forest-group)"', bare)


def test_legend_explains_the_marks_that_are_drawn_and_no_other() -> None:
    def keys(*findings: Finding) -> list[str]:
        return re.findall(r'class="(\w+)(?: \w+)?"', legend(findings))

    assert keys(finding(1, 2, 3)) == ["whisker", "dot"]
    everything = finding(1, 2, 3, margin=1.0, paper=4.0, floor="floor", headline=False)
    assert keys(everything) == ["whisker", "dot", "margin", "paper", "floor", "dot"]


def test_names_are_escaped() -> None:
    one = Effect("EM&S <over> EM", better="a", worse=0.0).on([{"a": float(k)} for k in range(3)])
    assert "EM&amp;S &lt;over&gt; EM" in forest({"": [one]}, "points")


@pytest.mark.parametrize("family", pages.family_names())
def test_page_of_a_family_tells_every_claim_and_every_effect(family) -> None:
    page = PAGES[f"claims/{family}.md"]
    headings = {slug(h) for h in re.findall(r"^### (.+)$", page, re.MULTILINE)}
    names = [n for n in claim_names() if n.startswith(f"{family}/")]
    drawn = {slug(pages.title(n)) for n in names if findings(n)}
    assert set(re.findall(r'href="#([^"]+)"', page)) == drawn <= headings
    assert len(headings) == len(names)
    for name in names:
        words = page.split(f"\n### {pages.title(name)}\n")[1].split("\n### ")[0]
        assert f"{SIGN[claim_status(name)]} {claim_status(name)}</span>" in words
        assert ("from memory" in words) == read_claim(name).from_memory
        assert f"](../methods/{name.replace('_', '-')}.md)" in words
        for found in findings(name):
            assert f"{figures(found)}</div>" in page
    assert not re.search(r"^\|", page, re.MULTILINE), "tables do not fit on a phone"


def test_summary_counts_and_links_every_claim() -> None:
    page = PAGES["claims/index.md"]
    for name in claim_names():
        family = name.partition("/")[0]
        assert f"[{pages.title(name)}]({family}.md#{slug(pages.title(name))})" in page
        assert pages.anchor(name) == slug(pages.title(name))
    for status, n in pages.counts(claim_names()).items():
        assert not n or f"{SIGN[status]}\u00a0{n}\u00a0{'hold' if status == 'holds' else status}" in page
        assert f"**{SIGN[status]} {status}**: {pages.MEANING[status]}." in page


@pytest.mark.parametrize("name", claim_names())
def test_card_shows_status_effects_figures_and_how_to_run_it_again(name) -> None:
    result, claim, shown = read_result(name), read_claim(name), pages.card_text(name)
    assert shown.startswith(f'!!! {pages.BOX[claim_status(name)]} "{claim_status(name)}"\n')
    for found in findings(name):
        assert f"{figures(found)}</div>" in shown
    for figure in claim.figures if result is not None else ():
        assert f"| {figure} | {result.mean[figure]:.3g} ± {result.spread[figure]:.2g} |" in shown
    assert f"python -m claims run {name}" in shown


def test_card_without_a_claim_says_so() -> None:
    assert pages.card_text("unlearn/no_such_method") == '!!! note "not run"\n    It has no claim of its own.'
