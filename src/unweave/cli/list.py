"""`unweave list`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from ..catalogue import FAMILIES, methods
from ..errors import InputError
from ._parse import parse


@dataclass(frozen=True)
class List:
    """List every method: family, name, what it needs, which deletion requests it suits, the status of its claim.

    Attributes:
        family: only this family ("unlearn", "prune"); "" lists all.
        json: print JSON instead of a table.
    """

    family: str = ""
    json: bool = False


def run(argv: Sequence[str]) -> int:
    """List the methods."""
    asked: List = parse(List, argv, command="list", example="  unweave list --family unlearn")
    if asked.family and asked.family not in FAMILIES:
        raise InputError(f"there is no family {asked.family!r}. There are: {', '.join(FAMILIES)}.")
    chosen = [m for m in methods() if asked.family in ("", m.family)]
    if asked.json:
        rows = [
            {
                "family": m.family, "method": m.name, "class": m.cls.__name__, "needs": m.needs,
                "suits": m.suits, "claim": m.claim, "summary": m.summary, "paper": str(m.paper),
            }
            for m in chosen
        ]  # fmt: skip
        Console(highlight=False, soft_wrap=True).print(json.dumps(rows, indent=1), markup=False)
        return 0
    table = Table(box=None, pad_edge=False)
    for heading in ("family", "method", "needs", "suits", "claim", "what it does"):
        table.add_column(heading, no_wrap=heading != "what it does")
    for m in chosen:
        table.add_row(
            m.family, m.name, ", ".join(m.needs) or "-", ", ".join(m.suits) or "-", m.claim, m.summary
        )
    out = Console(highlight=False)
    out.width = max(out.width, 150) if not out.is_terminal else out.width
    out.print(table)
    return 0
