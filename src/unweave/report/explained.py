"""An explanation as a page and as Markdown: latents of a layer, or regions of a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .markdown import plain
from .page import Section, render_page

Pages = tuple[str, str]
"""(HTML, Markdown)."""


def render_explained(
    title: str,
    *,
    kicker: str,
    lead: Sequence[str],
    sections: Sequence[Section],
    pictures: Mapping[str, str] | None = None,
    run: Mapping[str, Any],
) -> Pages:
    """Both pages of an explanation.

    Args:
        title: of the page.
        kicker: what was explained, above it.
        lead: paragraphs that say what came out.
        sections: in order; their pictures are in the HTML alone.
        pictures: caption -> file beside the Markdown, linked there.
        run: command, settings, versions, hashes.
    """
    html = render_page(title, kicker=kicker, lead=lead, sections=sections, run=run)
    lines = [f"# {plain(title)}", "", plain(kicker), ""]
    lines += [line for text in lead for line in (plain(text), "")]
    lines += [
        line for caption, file in (pictures or {}).items() for line in (f"![{plain(caption)}]({file})", "")
    ]
    for part in sections:
        lines += _part(part)
    return html, "\n".join(lines).rstrip() + "\n"


def _part(part: Section) -> list[str]:
    lines = [f"## {plain(part.heading)}", ""]
    if part.caption:
        lines += [plain(part.caption), ""]
    if part.columns:
        lines += [f"| {' | '.join(map(plain, part.columns))} |", f"|{' --- |' * len(part.columns)}"]
        lines += [f"| {' | '.join(map(plain, row))} |" for row in part.rows]
        lines.append("")
    return lines
