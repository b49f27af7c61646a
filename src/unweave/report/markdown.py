"""Audits as Markdown: the same order and words as the HTML report, without its pictures."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..audit.result import Audit, Kind, Rates
from . import words
from .page import Section
from .sections import evidence


def render_markdown(
    audits: Sequence[Audit],
    run: Mapping[str, Any],
    published: Sequence[Rates] = (),
    *,
    more: Sequence[Section] = (),
) -> str:
    """The report as Markdown; arguments as in `render_html`.

    Raises:
        InputError: if there is no audit, or they are of several kinds.
    """
    first = words.require_one_kind(audits)
    verdict = first.verdict
    lines = [f"# {first.word.symbol} {verdict.outcome.capitalize()}", ""]
    if run.get("request"):
        lines += [f"Request: {plain(run['request'])}", ""]
    lines += [
        f"**{first.word.meaning}** {plain(verdict.why)}",
        "",
        "## Can this verdict be trusted?",
        "",
    ]
    lines += [f"- {symbol} {plain(sentence)}" for symbol, sentence in first.tested]
    if not first.controls:
        lines.append(f"- {words.untested(first)}")
    lines += _rates([(first.rates, False)], first.kind) if first.rates else []
    lines += [f"- {words.elsewhere(published)}"] if published else []
    lines += [] if published or first.rates else ["- The error rates of this verdict are not known."]
    if published and first.kind != "drawing" and verdict.position is None:
        lines.append(f"- {words.ONLY_WITH_ORACLES}")
    lines += ["", "## Caveats and limits", "", *(f"- {plain(c)}" for c in words.caveats(first)), ""]
    for part in more:
        lines += table_lines(part) or [f"## {part.heading}", "", part.caption, ""]
    edits, retrain = words.costs(audits, run)
    if len(audits) > 1:
        lines += _compared(audits, edits)
    elif verdict.position is not None:
        lines += [
            "Position between models trained on the data (0) and retrained ones (1): "
            f"{words.place(verdict.position)}."
        ]
        lines.append("")
    if retrain and first.method in edits:
        spent = edits[first.method]
        instead = words.retrain_instead(first.method, spent, retrain)
        lines += [f"The edit took {words.seconds(spent)}, {words.ratio(spent, retrain)}.{instead}", ""]
    for part in evidence(audits, run, {}):
        lines += table_lines(part)
    for audit in audits:
        lines += _measurements(audit)
    if published:
        lines += [
            "## Error rates on models never seen before",
            "",
            *_rates([(r, True) for r in published], first.kind),
            "",
        ]
    return "\n".join([*lines, *_made(run)])


def _compared(audits: Sequence[Audit], edits: Mapping[str, float]) -> list[str]:
    placed = audits[0].kind != "drawing"
    position = " position (0 trained on it, 1 retrained) |" * placed
    lines = ["## Methods compared", "", f"| method | verdict |{position} edit |"]
    lines.append(f"| --- | --- |{' --- |' * placed} --- |")
    for audit in audits:
        took = words.seconds(edits[audit.method]) if audit.method in edits else "–"
        where = f" {words.place(audit.verdict.position)} |" * placed
        lines.append(f"| {plain(audit.method)} | {audit.verdict.outcome} |{where} {took} |")
    return [*lines, "", *(f"- {plain(a.method)}: {plain(a.verdict.why)}" for a in audits[1:]), ""]


def _made(run: Mapping[str, Any]) -> list[str]:
    lines = ["## How it was made", ""]
    if run.get("command"):
        longest = max(map(len, re.findall("`+", str(run["command"]))), default=0)
        fence = "`" * max(3, longest + 1)
        lines += [fence, str(run["command"]).strip(), fence, ""]
    rest = words.flat({k: v for k, v in run.items() if k not in ("request", "command")})
    if rest:
        lines += ["| | |", "| --- | --- |", *(f"| {plain(k)} | {plain(v)} |" for k, v in rest), ""]
    return lines


def _rates(known: Sequence[tuple[Rates, bool]], kind: Kind) -> list[str]:
    lines = []
    for rates, fresh in known:
        parts = [
            f"{r['count']} {r['what']}" + (f" (95 % interval {r['interval']})" if r["interval"] else "")
            for r in words.error_rates(rates, fresh=fresh, kind=kind)
        ]
        lines.append(
            f"- {plain(rates.source)}: {'; '.join(parts)}; {words.share(rates.inconclusive)} inconclusive, "
            f"{words.share(rates.wrong)} wrong."
        )
    return lines


def table_lines(part: Section) -> list[str]:
    """A part that has a table; pictures are left out."""
    if not part.rows:
        return []
    rows = [
        [plain(cell) for cell in part.columns],
        ["---"] * len(part.columns),
        *([plain(cell) for cell in row] for row in part.rows),
    ]
    return [f"## {part.heading}", "", part.caption, "", *(f"| {' | '.join(row)} |" for row in rows), ""]


def _measurements(audit: Audit) -> list[str]:
    lines = [f"## Measurements: {plain(audit.method)}", ""]
    if not audit.measurements:
        return [*lines, "Nothing was measured.", ""]
    lines += ["| measurement | edited (95 % interval) | original | retrained | what is better | n |"]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    for m in audit.measurements:
        original = "–" if m.original is None else words.number(m.original) + words.unit(m)
        note = f" ({plain(m.note)})" if m.note else ""
        lines.append(
            f"| {plain(m.name)} | {plain(words.value_text(m))} | {plain(original)} "
            f"| {plain(words.oracle_text(m))} | {plain(m.direction)}{note} | {m.n:,} |"
        )
    return [*lines, ""]


def plain(text: object) -> str:
    """Text that Markdown shows as it stands, on one line."""
    return re.sub(r"([\\`*_\[\]<>|#~])", r"\\\1", " ".join(str(text).split()))
