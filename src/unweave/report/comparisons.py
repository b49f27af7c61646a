"""Methods compared over seeds, as a page with pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from ..statistics import Summary, Trial
from . import pictures
from .page import Section, render_page
from .tables import difference_text, mean_text


def render_comparison(
    trials: Sequence[Trial],
    figures: Mapping[str, Mapping[str, Summary]],
    *,
    baseline: str,
    subject: str,
    run: Mapping[str, Any],
) -> str:
    """The report as one self-contained page.

    Args:
        trials: all of them, the failed ones too.
        figures: figure -> method -> what its trials say together.
        baseline: the method that differences are from.
        subject: what was trained or edited, in words.
        run: command, settings, versions, hashes.
    """
    failed = [t for t in trials if t.error]
    methods, seeds = len({t.method for t in trials}), len({t.seed for t in trials})
    lead = [f"{methods} methods over {seeds} seeds; differences are from {baseline}, seed by seed."]
    if failed:
        lead.append(f"{len(failed)} of {len(trials)} trials failed; they are listed below and count nowhere.")
    units = units_of(trials)
    sections = [s for figure, rows in figures.items() for s in _figure(figure, rows, units[figure], baseline)]
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
