"""Methods compared over seeds, as a page with pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from ..statistics import Summary, Trial
from . import pictures
from .curves import Point
from .curves import curves as drawn_curves
from .page import Section, render_page
from .tables import difference_text, mean_text
from .words import number

ALIVE = "weights that live"
"""The figure of how many weights a trained model has left, in %."""


def render_comparison(
    trials: Sequence[Trial],
    figures: Mapping[str, Mapping[str, Summary]],
    *,
    baseline: str,
    subject: str,
    run: Mapping[str, Any],
    curves: Mapping[str, Mapping[float, str]] | None = None,
    by: Mapping[str, str] | None = None,
) -> str:
    """The report as one self-contained page.

    Args:
        trials: all of them, the failed ones too.
        figures: figure -> method -> what its trials say together.
        baseline: the method that differences are from.
        subject: what was trained or edited, in words.
        run: command, settings, versions, hashes.
        curves: line -> sparsity -> the method that stands there; drawn first.
        by: method -> what trains it, in words.
    """
    failed = [t for t in trials if t.error]
    methods, seeds = len({t.method for t in trials}), len({t.seed for t in trials})
    lead = [f"{methods} methods over {seeds} seeds; differences are from {baseline}, seed by seed."]
    if failed:
        lead.append(f"{len(failed)} of {len(trials)} trials failed; they are listed below and count nowhere.")
    units = units_of(trials)
    sections = [s for figure, rows in figures.items() for s in _figure(figure, rows, units[figure], baseline)]
    sections = [*_curves(curves or {}, figures, units), *sections, *_trained(by or {})]
    if failed:
        rows = [(t.method, str(t.seed), t.error) for t in failed]
        sections.append(Section(heading="Failed trials", columns=("method", "seed", "error"), rows=rows))
    return render_page("Methods compared", kicker=f"On {subject}", lead=lead, sections=sections, run=run)


def units_of(trials: Sequence[Trial]) -> dict[str, str]:
    """Unit of each figure."""
    return {name: unit for t in trials for name, unit in t.units.items()}


def _figure(figure: str, rows: Mapping[str, Summary], unit: str, baseline: str) -> list[Section]:
    spread = partial(pictures.spreads, unit=unit)
    sections = [
        Section(
            heading=figure.capitalize(), caption="A dot a seed, a bar at the mean, a line over its 95 % interval.",
            picture=spread(
                {n: s.values for n, s in rows.items()}, intervals={n: s.interval for n, s in rows.items()}
            ),
            columns=("method", "mean ± spread", f"difference from {baseline} (95 % interval)", "seeds"),
            rows=[(n, mean_text(s), difference_text(s), str(len(s.values))) for n, s in rows.items()],
        )
    ]  # fmt: skip
    apart = {n: s for n, s in rows.items() if s.differences}
    if apart:
        sections.append(
            Section(
                heading=f"{figure.capitalize()}: difference from {baseline}", caption="Seed by seed.",
                picture=spread(
                    {n: s.differences for n, s in apart.items()},
                    intervals={n: s.difference_interval for n, s in apart.items()}, zero=True,
                ),
            )
        )  # fmt: skip
    return sections


def _curves(
    lines: Mapping[str, Mapping[float, str]],
    figures: Mapping[str, Mapping[str, Summary]],
    units: Mapping[str, str],
) -> list[Section]:
    """The held-out figure over sparsity: a line a method, and a band for what is on no line."""
    figure = next((name for name in figures if name.startswith("held-out ")), None)
    if figure is None or not lines:
        return []
    rows, alive = figures[figure], figures.get(ALIVE, {})
    at = [(name, s, m) for name, line in lines.items() for s, m in line.items() if m in rows]
    # budgets by layer may miss what was asked for
    removed = {m: 100 - alive[m].mean if m in alive else 100 * s for _, s, m in at}
    drawn = {name: [Point.of(removed[m], rows[m]) for n, _, m in at if n == name] for name in lines}
    placed = {m for line in lines.values() for m in line.values()}
    bands = {name: Point.of(0.0, found) for name, found in rows.items() if name not in placed}
    table = [
        (
            name, f"{100 * s:g} %", f"{number(removed[m])} %", mean_text(rows[m]), difference_text(rows[m]),
            str(len(rows[m].values)),
        )
        for name, s, m in at
    ]  # fmt: skip
    return [
        Section(
            heading=f"{figure.capitalize()} over sparsity",
            caption="Mean over the seeds with its 95 % interval; a band for what has no place along the axis.",
            picture=drawn_curves(drawn, bands, unit=f"{figure}, {units[figure]}", words="weights removed, %"),
            columns=(
                "method",
                "asked for",
                "removed",
                "mean ± spread",
                "difference from the baseline (95 % interval)",
                "seeds",
            ),
            rows=table,
        )
    ]


def grouped(by: Mapping[str, str]) -> dict[str, list[str]]:
    """Words -> the methods that they are said of."""
    return {words: [n for n, w in by.items() if w == words] for words in dict.fromkeys(by.values())}


def _trained(by: Mapping[str, str]) -> list[Section]:
    rows = [(", ".join(names), words) for words, names in grouped(by).items()]
    columns = ("methods", "trained by")
    return [Section(heading="What trained each", columns=columns, rows=rows)] if rows else []
