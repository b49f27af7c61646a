"""Audits of any kind of model as a page for people, as Markdown and as strict JSON.

`render_html` gives one file that opens offline: no script, no font, no address is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..audit.result import Audit, Rates
from . import pictures, words
from .markdown import render_markdown
from .page import Section, template
from .sections import Images, evidence, tables
from .stored import from_json, to_json

__all__ = ["from_json", "render_html", "render_markdown", "to_json"]


def render_html(
    audits: Sequence[Audit],
    run: Mapping[str, Any],
    published: Sequence[Rates] = (),
    *,
    drawn: Images | None = None,
    more: Sequence[Section] = (),
) -> str:
    """The report as one self-contained page.

    Args:
        audits: the model that is handed out first; then methods it is compared with, of the same kind of model.
        run: what was done. Read by name, all optional: "request" and "model" (in words), "command", "cost"
            (with "retrain", seconds of one retraining, and "edit", seconds of the first audit's edit or
            method -> seconds). Every other entry is listed as it is.
        published: error rates of the verdict on models that took no part in setting it.
        drawn: for pipelines, column ("before", a method, "retrained") -> concept -> its images [n, channels,
            height, width], about -1 to 1.
        more: parts that follow the limits.

    Returns:
        HTML. All text from the arguments is escaped.

    Raises:
        InputError: if there is no audit, or they are of several kinds.
    """
    first = words.require_one_kind(audits)
    return template("report").render(
        audits=audits,
        first=first,
        caveats=words.caveats(first),
        published=[(words.error_rates(r, fresh=True, kind=first.kind), r) for r in published],
        rates=[(words.error_rates(first.rates, fresh=False, kind=first.kind), first.rates)]
        if first.rates
        else [],
        evidence=evidence(audits, run, drawn or {}),
        tables=tables(first),
        run=run,
        more=more,
        details=words.flat({k: v for k, v in run.items() if k not in ("request", "command")}),
        glossary=words.GLOSSARY[first.kind],
        words=words,
        pictures=pictures,
    )
