"""The tables that say which method to use: what the code knows stands beside the sentence written by hand."""

from __future__ import annotations

import re

from claims.pages import signed_status
from unweave.catalogue import find

PAGE = "guide/which-method.md"
ROW = re.compile(r"\| \[`(?P<name>[\w-]+)`\]\(\.\./methods/(?P<card>[\w-]+/[\w-]+)\.md\) \|")


def widened(markdown: str) -> str:
    """A page with role, needs and claim as the last columns of each table of methods.

    Args:
        markdown: with tables whose first column is headed "method" and holds the method's name, as the command line has
            it, linked to its card.

    Raises:
        ValueError: if a row of such a table does not begin with a linked name.
        InputError: if there is no method of that name.
    """
    lines, inside = [], False
    for line in markdown.splitlines():
        if line.startswith("| method |"):
            inside, more = True, "role | needs | claim |"
        elif not line.startswith("|"):
            inside = False
        elif inside:
            more = "--- | --- | --- |" if line.startswith("| --- |") else _known(line)
        lines.append(f"{line} {more}" if inside else line)
    return "\n".join(lines) + "\n"


def _known(row: str) -> str:
    found = ROW.match(row)
    if found is None:
        raise ValueError(
            f"{PAGE}: a row must begin with | [`name`](../methods/family/card.md) |; got {row!r}"
        )
    method = find(found["name"])
    claim = signed_status(found["card"].replace("-", "_"))
    return f"{method.role} | {', '.join(method.needs) or '–'} | {claim} |"
