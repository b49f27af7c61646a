"""The tables that say which method to use: what the code knows stands beside the sentence written by hand."""

from __future__ import annotations

import re

from claims.pages import signed_status
from unweave.catalogue import find

PAGE = "guide/which-method.md"
ROW = re.compile(r"\| \[`(?P<name>[\w-]+)`\]\(\.\./methods/(?P<card>[\w-]+/[\w-]+)\.md\) \|")
HEAD, RULE = "| method |", "| --- |"


def widened(markdown: str) -> str:
    """A page with role, needs and claim after the first column of each table of methods.

    Args:
        markdown: with tables whose first column is headed "method" and holds the method's name, as the command line has
            it, linked to its card.

    Raises:
        ValueError: if a row of such a table does not begin with a linked name.
        InputError: if there is no method of that name.
    """
    lines, inside = [], False
    for line in markdown.splitlines():
        if line.startswith(HEAD):
            inside = True
            lines.append(f"{HEAD} role | needs | claim |{line.removeprefix(HEAD)}")
        elif inside and line.startswith(RULE):
            lines.append(f"{RULE} --- | --- | --- |{line.removeprefix(RULE)}")
        elif inside and line.startswith("|"):
            lines.append(_row(line))
        else:
            inside = False
            lines.append(line)
    return "\n".join(lines) + "\n"


def _row(line: str) -> str:
    found = ROW.match(line)
    if found is None:
        raise ValueError(
            f"{PAGE}: a row must begin with | [`name`](../methods/family/card.md) |; got {line!r}"
        )
    method = find(found["name"])
    card = found["card"].replace("-", "_")
    needs = ", ".join(method.needs) or "–"
    return f"{found[0]} {method.role} | {needs} | {signed_status(card)} |{line[found.end() :]}"
