"""`unweave ledger add`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ..errors import InputError
from ..jobs.ledger import Ledger
from ..jobs.opened import Folder
from ..jobs.texts import TextFiles
from ._ledger_begin import named, source
from ._parse import parse, say


@dataclass(frozen=True, kw_only=True)
class AddOptions:
    """Take in another model, or a new version of one; it is in use from then on.

    Attributes:
        ledger: its folder.
        name: of the model: that of one which is there makes this a new version of it.
        project: of this model.
        model: its weights.
        folder: for a transformers folder.
        text_files: for a language model's.
        how: it was made: trained, pruned, distilled, ...
        parent: the model it was made of, by name or digest; "unknown" if that is so, "" if of none.
        recipients: who was given it.
    """

    ledger: tyro.conf.Positional[Path]
    name: tyro.conf.Positional[str]
    project: tyro.conf.Positional[str] = ""
    model: Path | None = None
    folder: Annotated[Folder, tyro.conf.arg(name="")] = Folder()
    text_files: Annotated[TextFiles, tyro.conf.arg(name="")] = TextFiles()
    how: str = "trained"
    parent: str = ""
    recipients: tuple[str, ...] = ()


def add(argv: Sequence[str]) -> int:
    """Take in a model."""
    example = "  unweave ledger add ./deletions small pruned.py --model small/ --how pruned --parent main"
    asked: AddOptions = parse(AddOptions, argv, command="ledger add", example=example)
    ledger = Ledger(asked.ledger)
    subject = named(asked)
    if subject.model is None:
        raise InputError(f"the weights of {asked.name} are missing. Give --model.")
    version = ledger.models.add(
        asked.name, subject, how=asked.how, parent=asked.parent, recipients=asked.recipients,
        source=source(asked),
    )  # fmt: skip
    late = version.name in {v.name for v in ledger.models.late()}
    told = f"\nIt holds what was deleted, and is due at once: unweave ledger serve {ledger.folder}" * late
    say(f"{version.name} ({version.digest[:12]}, {version.how}) is entry {version.entry}.{told}")
    return 0
