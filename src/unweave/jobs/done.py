"""What a job returns: where the run lies, what came out, and how it is shown."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, Self

from rich.console import Console

from ..io.runs import RunFolder


@dataclass(frozen=True)
class Done(ABC):
    """A finished run. `print(done)` shows it as text, `done.show()` as the command line does.

    Attributes:
        folder: where it lies.
    """

    folder: Path

    @property
    def model(self) -> Path:
        """The model that is handed out."""
        return self.folder / "model"

    @property
    def page(self) -> Path:
        """The report."""
        return self.folder / "report.html"

    @classmethod
    @abstractmethod
    def read(cls, folder: Path) -> Self:
        """Read a finished run."""

    @abstractmethod
    def json(self) -> str:
        """The figures as strict JSON."""

    @abstractmethod
    def tell(self, out: Console) -> None:
        """Print what came out."""

    def show(self) -> None:
        """Print what came out to the standard output."""
        self.tell(Console(highlight=False, soft_wrap=True))

    def __str__(self) -> str:
        text = StringIO()
        self.tell(Console(file=text, highlight=False, soft_wrap=True, no_color=True))
        return text.getvalue().rstrip()


def facts_of(run: RunFolder, command: Sequence[str], notes: Sequence[str] = ()) -> dict[str, Any]:
    """What a report says of how it was made; `notes` are the subject's."""
    facts = {k: run.record[k] for k in ("settings", "seed", "versions", "hardware", "inputs")}
    facts |= {"notes": " ".join(notes)} if notes else {}
    return {"command": " ".join(command), **facts} if command else facts
