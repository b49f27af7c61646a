"""An audit as a notebook shows it: a fragment of HTML that stands alone and takes the page's own colours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from markupsafe import Markup

from ..audit.shown import interval, number, oracle_text, place, unit, value_text

if TYPE_CHECKING:
    from .result import Audit

TONES = {
    "✓": "#0b6b53",
    "◆": "#0b5a7d",
    "✕": "#a8321a",
    "◐": "#8a5a00",
    "◒": "#7a4b2a",
    "▲": "#75409c",
    "■": "#8a1f4f",
    "?": "#545b64",
}
"""Symbol of an outcome -> its colour in the light report."""
_BADGE = "background:{};color:#fff;border-radius:50%;padding:0 .35em"
_CELL = "text-align:left;vertical-align:top;padding:.25em .7em;border-top:1px solid #8884"


def fragment(audit: Audit) -> str:
    """Verdict, controls and measurements as HTML: no script, no style sheet, no address; all text is escaped."""
    verdict, word = audit.verdict, audit.word
    parts = [
        Markup('<div style="font-size:1.5em;font-weight:600"><span style="{}">{}</span> {}</div>').format(
            _BADGE.format(TONES[word.symbol]), word.symbol, verdict.outcome.capitalize()
        ),
        _paragraph(audit.method, faint=True),
        _paragraph(word.meaning),
        _paragraph(verdict.why),
    ]
    if verdict.position is not None:
        ranges = (("retrained models", verdict.accepted), ("models that hold the data", verdict.rejected))
        known = "".join(f"; {name}: {interval(ends)}" for name, ends in ranges if ends)
        parts.append(_paragraph(f"Position {place(verdict.position)} (0 holds the data, 1 retrained{known})"))
    parts += [_paragraph(f"{symbol} {sentence}") for symbol, sentence in audit.tested]
    parts += [_paragraph(f"– {caveat}") for caveat in verdict.caveats]
    parts.append(
        _table(
            ("measurement", "edited (95 % interval)", "original", "retrained", "n"),
            [
                (
                    m.name,
                    value_text(m),
                    number(m.original) + (unit(m) if m.original is not None else ""),
                    oracle_text(m),
                    f"{m.n:,}",
                )
                for m in audit.measurements
            ],
        )
    )
    box = '<div style="border-left:5px solid {};padding:.2em 1em;max-width:60em">{}</div>'
    return str(Markup(box).format(TONES[word.symbol], Markup("").join(parts)))


def _paragraph(text: str, *, faint: bool = False) -> Markup:
    style = "margin:.3em 0;opacity:.7" if faint else "margin:.3em 0"
    return Markup('<div style="{}">{}</div>').format(style, text) if text else Markup("")


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Markup:
    if not rows:
        return Markup("")

    def line(tag: str, cells: Sequence[str]) -> Markup:
        cell = Markup('<{0} style="{1}">{{}}</{0}>').format(Markup(tag), _CELL)
        return Markup("<tr>{}</tr>").format(Markup("").join(cell.format(text) for text in cells))

    head, body = line("th", columns), Markup("").join(line("td", row) for row in rows)
    style = "border-collapse:collapse;color:inherit;margin:.6em 0"
    table = '<table style="{}"><thead>{}</thead><tbody>{}</tbody></table>'
    return Markup(table).format(style, head, body)
