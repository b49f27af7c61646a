"""Exactly deletable models: what was trained, what a deletion switched off, and what its bits were compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from . import words
from .models import value_text
from .page import Section, render_page

Figures = Mapping[str, tuple[float, str]]
"""Name -> (value, unit)."""

LIMITS = (
    "Exact is what this folder serves. Copies of the data, earlier versions of the model and whatever was made of them "
    "elsewhere are not part of it.",
    "Whoever has the model from before and this one can compare them, and may learn something of what was deleted.",
    "This is technical evidence, not a finding of legal compliance.",
)
"""What no bit-identity covers."""


def render_exact(
    title: str, kicker: str, lead: Sequence[str], figures: Figures, tables: Mapping[str, Sequence[Sequence[str]]],
    limits: Sequence[str], run: Mapping[str, Any],
) -> str:  # fmt: skip
    """The report as one self-contained page.

    Args:
        title: its headline.
        kicker: what it is about.
        lead: paragraphs that say what came out.
        figures: name -> (value, unit).
        tables: heading -> rows, the first of which has the columns' names.
        limits: what is not covered, a sentence each.
        run: command, settings, versions, hashes.
    """
    sections = [
        Section(heading="Figures", columns=("figure", "value", "unit"), rows=_cells(figures)),
        *(Section(heading=h, columns=rows[0], rows=rows[1:]) for h, rows in tables.items() if len(rows) > 1),
        Section(heading="What this does not cover", columns=("limit",), rows=[(one,) for one in limits]),
    ]
    return render_page(title, kicker=kicker, lead=lead, sections=sections, run=run)


def markdown_exact(
    title: str, kicker: str, lead: Sequence[str], figures: Figures, tables: Mapping[str, Sequence[Sequence[str]]],
    limits: Sequence[str], run: Mapping[str, Any],
) -> str:  # fmt: skip
    """The same as Markdown; arguments as in `render_exact`."""
    parts = [
        f"# {title}",
        kicker,
        *lead,
        "## Figures",
        _table([("figure", "value", "unit"), *_cells(figures)]),
    ]
    for heading, rows in tables.items():
        if len(rows) > 1:
            parts += [f"## {heading}", _table(rows)]
    parts += ["## What this does not cover", "\n".join(f"- {one}" for one in limits), "## How it was made"]
    rows = [("", ""), *((k, v) for k, v in words.flat(run))]
    return "\n\n".join([*parts, _table(rows)]) + "\n"


def _cells(figures: Figures) -> list[tuple[str, str, str]]:
    return [(name, value_text(value), unit) for name, (value, unit) in figures.items()]


def _table(rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(_plain(cell) for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "| " + " | ".join("---" for _ in rows[0]) + " |", *lines[1:]])


def _plain(text: str) -> str:
    return " ".join(str(text).split()).replace("|", "\\|")
