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
from ..jobs.compare import Compared
from ..jobs.done import Done
from ..jobs.erase import Erased
from ..jobs.exact import ExactlyTrained
from ..jobs.forget_exact import ForgottenExactly
from ..jobs.prune import Pruned
from ..jobs.train import Trained
from ._parse import parse

WRITTEN: dict[str, type[Done]] = {
    "compare.json": Compared,
    "prune.json": Pruned,
    "train.json": Trained,
    "audit.json": Erased,
    "exact-train.json": ExactlyTrained,
    "forget.json": ForgottenExactly,
}
"""What a finished run leaves -> what reads and prints it."""


@dataclass(frozen=True)
class Show:
    """Print a finished run's report: the verdict first, then the figures.

    Attributes:
        folder: the run's folder, of any command.
        json: print the figures as JSON instead: audit.json, prune.json, train.json, ...
    """

    folder: tyro.conf.Positional[Path]
    json: bool = False


def run(argv: Sequence[str]) -> int:
    """Print a report."""
    asked: Show = parse(Show, argv, command="show", example="  unweave show runs/req-17")
    report = asked.folder / "report.md"
    name = next((n for n in WRITTEN if (asked.folder / n).is_file()), None)
    if name is None and not report.is_file():
        state = "has no finished report" if (asked.folder / "run.json").exists() else "is not a run folder"
        raise InputError(
            f"{asked.folder} {state}. Give the folder that `unweave forget`, prune, train, compare or erase wrote "
            "(--out)."
        )
    if asked.json and name is not None:
        sys.stdout.write((asked.folder / name).read_text(encoding="utf-8"))
    elif not report.is_file():
        WRITTEN[str(name)].read(asked.folder).show()
    elif sys.stdout.isatty():
        Console().print(Markdown(report.read_text(encoding="utf-8")))
    else:
        sys.stdout.write(report.read_text(encoding="utf-8"))
    return 0
