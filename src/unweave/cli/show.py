"""`unweave show`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.markdown import Markdown

from ..errors import InputError, IntegrityError
from ..io.loading import short
from ..io.run_record import read_record
from ..io.runs import verify
from ..jobs.compare import Compared
from ..jobs.done import Done
from ..jobs.erase import Erased
from ..jobs.exact import ExactlyTrained
from ..jobs.explain import Explained
from ..jobs.forget_exact import ForgottenExactly
from ..jobs.judging import Audited
from ..jobs.pruned import Pruned
from ..jobs.scan import Scanned
from ..jobs.train import Trained
from ..jobs.uncertainty import Unsure
from ..report.audits import from_json
from ._parse import parse
from ._plain import write_json

WRITTEN: dict[str, type[Done]] = {
    "compare.json": Compared,
    "prune.json": Pruned,
    "train.json": Trained,
    "audit.json": Erased,
    "exact-train.json": ExactlyTrained,
    "forget.json": ForgottenExactly,
    "explain.json": Explained,
    "uncertainty.json": Unsure,
    "scan.json": Scanned,
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
    if not (asked.folder / "run.json").exists():
        raise InputError(
            f"{asked.folder} is not a run folder: it has no run.json. Give the folder that `unweave forget`, "
            "prune, train, compare or erase wrote (--out)."
        )
    record = read_record(asked.folder)
    verify(asked.folder, record)
    _refuse_unfinished(asked.folder, record)
    written = {made for stage in record["stages"].values() for made in stage["makes"]}
    name = next((n for n in WRITTEN if n in written), None)
    report = asked.folder / "report.md"
    if asked.json and name is not None:
        write_json((asked.folder / name).read_text(encoding="utf-8"))
    elif "report.md" not in written:
        _read(asked.folder, str(name)).show()
    elif sys.stdout.isatty():
        Console().print(Markdown(report.read_text(encoding="utf-8")))
    else:
        sys.stdout.write(report.read_text(encoding="utf-8"))
    return 0


def _refuse_unfinished(folder: Path, record: Mapping[str, Any]) -> None:
    finished = [name for name, stage in record["stages"].items() if stage["state"] == "finished"]
    begun = [name for name in record["stages"] if name not in finished]
    if not begun and any("report.html" in record["stages"][name]["makes"] for name in finished):
        return
    state = f"Finished: {', '.join(finished) or 'nothing'}"
    state += f"; begun: {', '.join(begun)}." if begun else "; its report was not begun."
    command = shlex.join(map(str, record.get("command", ())))
    cure = f"Go on with: {command}" if command else "Go on with the same job and the same folder"
    own = " (FILE and VALUE are yours to fill in: a run keeps neither)" if _kept_back(command) else ""
    raise InputError(f"the run in {folder} was stopped before its end. {state} {cure}{own}.")


def _kept_back(command: str) -> bool:
    return "=VALUE" in command or "--ids" in command


def _read(folder: Path, name: str) -> Done:
    try:
        kind = WRITTEN[name]
        if kind is Erased and from_json((folder / name).read_text(encoding="utf-8"))[0].kind == "classifier":
            kind = Audited
        return kind.read(folder)
    except (ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
        raise IntegrityError(
            f"{folder / name} is damaged ({short(error)}). Run the same command again."
        ) from error
