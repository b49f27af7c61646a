"""Equations: LaTeX between dollar signs becomes MathML when the site is built; a page loads no script for it."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from latex2mathml.converter import convert

CODE = r"^(?P<fence>`{3,})[^\n]*\n.*?^(?P=fence) *$|(?P<ticks>`+)(?!`).+?(?<!`)(?P=ticks)(?!`)"
DISPLAY = r"^(?P<indent> *)\$\$(?P<display>.+?)\$\$ *$"
INLINE = r"(?<![\\$])\$(?P<inline>[^\s$](?:[^$]*?[^\s$\\])?)\$(?!\d)"
PART = re.compile(f"{CODE}|{DISPLAY}|{INLINE}|(?P<lone>(?<!\\\\)\\$)", re.MULTILINE | re.DOTALL)
BAR = re.compile(r"(?<!\\left)(?<!\\right)(\\[lr][vV]ert)(?![a-zA-Z])")
"""Bars that say which side they are on, which the converter would space as operators."""
ACTIVE = {ord(c): f"&#{ord(c)};" for c in "*_`[]|~^"}
"""Characters that Markdown would read, as entities."""


def set_equations(markdown: str, path: str) -> str:
    r"""A page with `$...$` and, on lines of their own, `$$...$$` set as MathML; code is left alone, `\$` is a dollar.

    Args:
        markdown: the page.
        path: where it is, for errors.

    Raises:
        ValueError: if an equation is malformed, or a dollar sign has no partner; names the page and the equation.
    """

    def replaced(found: re.Match[str]) -> str:
        if found["lone"]:
            line = markdown.count("\n", 0, found.start()) + 1
            raise ValueError(
                rf"{path}, line {line}: a dollar sign without a partner. Write \$ for the sign itself."
            )
        if found["display"]:
            return f'{found["indent"]}<div class="equation">{mathml(found["display"], path, "block")}</div>'
        if found["inline"]:
            return f'<span class="equation">{mathml(found["inline"], path)}</span>'
        return found[0]

    return PART.sub(replaced, markdown)


def mathml(latex: str, path: str, display: str = "inline") -> str:
    r"""An equation as one line of MathML in which Markdown finds nothing to read.

    Args:
        latex: without its dollar signs.
        path: the page it is on, for errors.
        display: "inline" or "block".

    Raises:
        ValueError: if it is malformed: braces that do not match, unknown commands, double subscripts.
    """
    plain = " ".join(latex.split())
    try:
        _balanced(plain)
        fenced = BAR.sub(lambda bar: (r"\left" if bar[1][1] == "l" else r"\right") + bar[1], plain)
        made = convert(fenced, display=display)
        unread = [t for t in ElementTree.fromstring(made).itertext() if "\\" in t]
        if unread:
            raise ValueError(f"unknown command {unread[0]}")
    except Exception as error:  # the converter raises bare exceptions of its own
        reason = str(error) or type(error).__name__
        raise ValueError(f"{path}: cannot read the equation {plain!r}: {reason}") from error
    return re.sub(r">[^<]+<", lambda text: text[0].translate(ACTIVE), made)


def _balanced(latex: str) -> None:
    depth = 0
    for brace in re.findall(r"(?<!\\)[{}]", latex):
        depth += 1 if brace == "{" else -1
        if depth < 0:
            break
    if depth:
        raise ValueError("braces do not match")
