"""`unweave show`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console
from rich.markdown import Markdown

from ..errors import InputError
from ._options import parse


@dataclass(frozen=True)
class Show:
    """Print a finished run's report: the verdict first, then the figures.

    Attributes:
        folder: the run's folder.
        json: print audit.json instead.
    """

    folder: tyro.conf.Positional[Path]
    json: bool = False


def run(argv: Sequence[str]) -> int:
    """Print a report."""
    asked: Show = parse(Show, argv, command="show", example="  unweave show runs/req-17")
    file = asked.folder / ("audit.json" if asked.json else "report.md")
    if not file.is_file():
        state = "has no finished report" if (asked.folder / "run.json").exists() else "is not a run folder"
        raise InputError(
            f"{asked.folder} {state} ({file.name} is absent). Run `unweave forget` with --out {asked.folder}."
        )
    text = file.read_text(encoding="utf-8")
    if asked.json or not sys.stdout.isatty():
        sys.stdout.write(text)
    else:
        Console().print(Markdown(text))
    return 0
