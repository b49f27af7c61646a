"""One look for every page unweave writes: a file that opens offline, with no script, font or address in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from . import words


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of a page.

    Attributes:
        heading: of the part.
        caption: what the picture or table shows, in a sentence or two.
        picture: drawn by `pictures`; None for none.
        columns: headings of a table; the first is that of its row names.
        rows: of the table, one cell a column.
    """

    heading: str
    caption: str = ""
    picture: Markup | None = None
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()


def render_page(
    title: str, *, kicker: str, lead: Sequence[str], sections: Sequence[Section], run: Mapping[str, Any]
) -> str:
    """A self-contained page of headed pictures and tables.

    Args:
        title: the page's headline.
        kicker: what it is about, above the headline.
        lead: paragraphs that say what came out.
        sections: in order.
        run: command, settings, versions, hashes; nested mappings are listed by dotted names.

    Returns:
        HTML. All text from the arguments is escaped.
    """
    return template("page").render(
        title=title, kicker=kicker, lead=lead, sections=sections, details=words.flat(run)
    )


@lru_cache
def template(name: str) -> Template:
    """A page's template, by the name of its file."""
    # the page is cut by its own rules, so block tags may stand on lines of their own
    environment = Environment(
        loader=PackageLoader(__package__, "."),
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template(f"{name}.html.jinja")
