"""A run that found something to be read: sentences, figures, and all of it in one file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

from rich.console import Console

from ..report import words
from .done import Done


@dataclass(frozen=True)
class Told(Done):
    """A finished run whose file holds its lead, its figures and all that was found.

    Attributes:
        lead: what came out, in sentences.
        figures: name -> (value, unit).
        found: all of it, as plain JSON.
    """

    file: ClassVar[str]

    lead: Sequence[str]
    figures: Mapping[str, tuple[float, str]]
    found: Mapping[str, Any] = field(repr=False)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read a finished run."""
        told = json.loads((folder / cls.file).read_text(encoding="utf-8"))
        return cls(folder, told["lead"], {n: (v, u) for n, (v, u) in told["figures"].items()}, told["found"])

    def json(self) -> str:
        """Everything as strict JSON."""
        return (self.folder / self.file).read_text(encoding="utf-8")

    def tell(self, out: Console) -> None:
        """Print what came out, and where the report lies."""
        for line in self.lead:
            out.print(line, markup=False)
        for name, (value, unit) in self.figures.items():
            out.print(f"  {name:44} {words.number(value, digits=4):>10} {unit}".rstrip(), markup=False)
        out.print(f"Report: {self.page}", markup=False)
