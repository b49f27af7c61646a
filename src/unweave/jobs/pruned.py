"""A finished pruning: its figures, what was left, and how it is told."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from rich.console import Console

from ..report import words
from .done import Done


@dataclass(frozen=True)
class Pruned(Done):
    """A finished pruning.

    Attributes:
        figures: name -> (before, after, unit).
        layers: matrix weight -> % of it that is kept, those left dense included.
        notes: sentences on what was looked at and on how the model is read again.
        left: matrix weight -> why it was left dense.
        uncut: layer -> why its dead channels could not be removed, or not all of them.
    """

    figures: Mapping[str, tuple[float, float, str]]
    layers: Mapping[str, float]
    notes: Sequence[str] = ()
    left: Mapping[str, str] = field(default_factory=dict)
    uncut: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read a finished run."""
        told = json.loads((folder / "prune.json").read_text(encoding="utf-8"))
        figures = {n: (b, a, u) for n, (b, a, u) in told["figures"].items()}
        more = (told.get("notes", []), told.get("left", {}), told.get("uncut", {}))
        return cls(folder, figures, told["layers"], *more)

    def json(self) -> str:
        """The figures as strict JSON."""
        return json.dumps(self.figures, indent=1) + "\n"

    def tell(self, out: Console) -> None:
        """Print every figure before and after."""
        for name, (before, after, unit) in self.figures.items():
            old, new = words.number(before, digits=4), words.number(after, digits=4)
            out.print(f"  {name:24} {old:>12} -> {new:<12} {unit}", markup=False)
        for note in self.notes:
            out.print(note, markup=False)
        for what, reasons in (("Left dense", self.left), ("Not cut", self.uncut)):
            for why, names in _by_reason(reasons).items():
                out.print(f"{what}: {_few(names)} ({why})", markup=False)
        out.print(f"Model: {self.model}\nReport: {self.page}", markup=False)


def _by_reason(reasons: Mapping[str, str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for name, why in reasons.items():
        groups.setdefault(why, []).append(name)
    return groups


def _few(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
