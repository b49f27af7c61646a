"""`unweave ledger init`, and how the command line names a model to a ledger."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from ..errors import InputError
from ..io.runs import RunFolder
from ..jobs.ledger import Ledger, Policy
from ..jobs.opened import Folder
from ..jobs.subject import Subject
from ..jobs.texts import TextFiles
from ._opened import opened
from ._parse import parse, say


@dataclass(frozen=True, kw_only=True)
class InitOptions:
    """Begin a ledger, with the model that requests are about.

    Attributes:
        ledger: a new folder.
        project: your project.py, a transformers folder (of a classifier, or of a language model), or nothing for the
            embedded digits.
        model: weights of the trained model; without it the model is trained first, by the recipe.
        folder: for a transformers folder.
        text_files: for a language model's.
        name: of the model, through all its versions.
        due: until when a request must be answered: "30 days", "1 month".
        window: days for which requests are gathered, to be served together.
        retrain_after: rounds of approximate methods after which a training from scratch is due.
        keep: how long the evidence of a served request is kept: "36 months"; "" keeps it.
        recipients: who was given the model, to be told of deletions.
        unsigned: do not sign entries, although the package cryptography is there.
    """

    ledger: tyro.conf.Positional[Path]
    project: tyro.conf.Positional[str] = ""
    model: Path | None = None
    folder: Annotated[Folder, tyro.conf.arg(name="")] = Folder()
    text_files: Annotated[TextFiles, tyro.conf.arg(name="")] = TextFiles()
    name: str = "main"
    due: str = "30 days"
    window: int = 7
    retrain_after: int = 5
    keep: str = ""
    recipients: tuple[str, ...] = ()
    unsigned: bool = False


def init(argv: Sequence[str]) -> int:
    """Begin a ledger."""
    example = (
        "  unweave ledger init ./deletions\n  unweave ledger init ./deletions project.py --model model.pt\n"
        "  unweave ledger init ./deletions ./llm --data qa.jsonl --heldout apart.jsonl --base ./base --epochs 5"
    )
    asked: InitOptions = parse(InitOptions, argv, command="ledger init", example=example)
    subject = named(asked)
    policy = Policy(due=asked.due, window=asked.window, retrain_after=asked.retrain_after, keep=asked.keep)
    ledger = Ledger.init(asked.ledger, policy, sign=False if asked.unsigned else None)
    if subject.model is None:
        with RunFolder.open(
            asked.ledger / "runs" / "000001", settings={"train": asked.name}, inputs=subject.inputs(), seed=0
        ) as run:
            subject.trained(run, subject.require_recipe("no model can be trained"))
        subject = replace(subject, model=asked.ledger / "runs" / "000001" / "original")
    version = ledger.models.add(asked.name, subject, recipients=asked.recipients, source=source(asked))
    signed = (
        "Every entry is signed" if ledger.public else "Entries are not signed (pip install 'unweave[ledger]')"
    )
    say(
        f"{ledger.folder} keeps the deletions of {asked.name} ({version.digest[:12]}), {len(subject.train):,} training "
        f"examples. {signed}.\nNext: unweave ledger request {ledger.folder} --ids FILE"
    )
    return 0


def named(asked: Any) -> Subject:
    """The project that was named, with the weights that were named.

    Raises:
        InputError: if adapters were asked for: a ledger hands out whole models.
    """
    if asked.text_files.output != TextFiles.output:
        raise InputError(
            "--output lora is for unweave forget: a ledger knows models by all of their weights, and hands out whole "
            "folders. Leave it out."
        )
    return opened(asked.project, asked.folder, getattr(asked, "model", None), asked.text_files)


def source(asked: Any) -> dict[str, Any]:
    """How the project is opened again, from wherever that is done."""
    how = {**dataclasses.asdict(asked.folder), "texts": asked.text_files.told()}
    return how | {
        "project": _from_anywhere(asked.project), "data": _from_anywhere(asked.folder.data),
        "base": _from_anywhere(asked.folder.base),
    }  # fmt: skip


def _from_anywhere(named: str) -> str:
    """A path as an absolute one, behind "imagefolder:" too; what leads to nothing here stays as it is."""
    before = "imagefolder:" if named.startswith("imagefolder:") else ""
    path, marked, share = named.removeprefix(before).partition(":holdout=")
    return f"{before}{Path(path).resolve()}{marked}{share}" if path and Path(path).exists() else named
