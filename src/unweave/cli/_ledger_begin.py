"""`unweave ledger init`, and how the command line names a model to a ledger."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from ..io.runs import RunFolder
from ..jobs.ledger import Ledger, Policy
from ..jobs.opened import Folder, open_subject
from ..jobs.subject import Subject
from ._parse import parse, say


@dataclass(frozen=True, kw_only=True)
class InitOptions:
    """Begin a ledger, with the model that requests are about.

    Attributes:
        ledger: a new folder.
        project: your project.py, a transformers image-classification folder, or nothing for the embedded digits.
        model: weights of the trained model; without it the model is trained first, by the recipe.
        folder: for a transformers folder.
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
        "  unweave ledger init ./deletions\n  unweave ledger init ./deletions project.py --model model.pt"
    )
    asked: InitOptions = parse(InitOptions, argv, command="ledger init", example=example)
    subject = named(asked.project, asked.folder, asked.model)
    policy = Policy(due=asked.due, window=asked.window, retrain_after=asked.retrain_after, keep=asked.keep)
    ledger = Ledger.init(asked.ledger, policy, sign=False if asked.unsigned else None)
    if subject.model is None:
        with RunFolder.open(
            asked.ledger / "runs" / "000001", settings={"train": asked.name}, inputs=subject.inputs(), seed=0
        ) as run:
            subject.trained(run, subject.require_recipe("no model can be trained"))
        subject = replace(subject, model=asked.ledger / "runs" / "000001" / "original")
    version = ledger.models.add(
        asked.name, subject, recipients=asked.recipients, source=source(asked.project, asked.folder)
    )
    signed = (
        "Every entry is signed" if ledger.public else "Entries are not signed (pip install 'unweave[ledger]')"
    )
    say(
        f"{ledger.folder} keeps the deletions of {asked.name} ({version.digest[:12]}), {len(subject.train):,} training "
        f"examples. {signed}.\nNext: unweave ledger request {ledger.folder} --ids FILE"
    )
    return 0


def named(project: str, folder: Folder, model: Path | None) -> Subject:
    subject = open_subject(project, folder)
    return subject if model is None else replace(subject, model=model)


def source(project: str, folder: Folder) -> dict[str, Any]:
    return {"project": str(Path(project).resolve()) if project else "", **dataclasses.asdict(folder)}
