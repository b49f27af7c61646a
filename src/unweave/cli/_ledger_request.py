"""`unweave ledger request`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Annotated

import tyro

from ..errors import InputError
from ..jobs.deletion import Deletion
from ..jobs.ledger import Ledger
from ..jobs.ledger.plan import opened
from ..jobs.opened import Folder
from ..jobs.subject import Subject
from ..jobs.texts import TextFiles
from ._ledger_begin import named
from ._parse import parse, say


@dataclass(frozen=True, kw_only=True)
class RequestOptions:
    """Take in a request to delete training examples.

    A repetition makes no second request: the first one's name comes back.

    Attributes:
        ledger: its folder.
        ids: file with the ids, one a line (.txt), or with a column "id" (.csv, .parquet).
        classes: classes to delete, by name or number.
        where: delete examples whose column has this value: COLUMN=VALUE.
        random: this many drawn at random, to try things out.
        ground: why, in a few words; they stay in the log, so write no name.
        received: when, ISO 8601 with a time zone; now unless given.
        verified: it is known that whoever asks may.
        urgent: serve it without waiting for the batch window.
        project: the data, where the ledger does not know how to open them.
        folder: for a transformers folder.
        text_files: for a language model's.
        json: print as JSON.
    """

    ledger: tyro.conf.Positional[Path]
    ids: Path | None = None
    classes: tuple[str, ...] = ()
    where: str = ""
    random: int | None = None
    ground: str = ""
    received: str = ""
    verified: bool = False
    urgent: bool = False
    project: str = ""
    folder: Annotated[Folder, tyro.conf.arg(name="")] = Folder()
    text_files: Annotated[TextFiles, tyro.conf.arg(name="")] = TextFiles()
    json: bool = False


def request(argv: Sequence[str]) -> int:
    """Take in a request."""
    example = '  unweave ledger request ./deletions --where user=4711 --ground "consent withdrawn" --verified'
    asked: RequestOptions = parse(RequestOptions, argv, command="ledger request", example=example)
    ledger = Ledger(asked.ledger)
    deletion = Deletion(
        subject=_subject(ledger, asked), ids=asked.ids, classes=asked.classes, where=asked.where, random=asked.random
    )  # fmt: skip
    taken = ledger.request(
        deletion, ground=asked.ground, received=_time(asked.received), verified=asked.verified, urgent=asked.urgent
    )  # fmt: skip
    told = ledger.known(taken.request)
    if asked.json:
        facts = {"request": taken.request, "entry": taken.entry, "new": taken.new, "known": dict(taken.known)}
        sys.stdout.write(json.dumps({**facts, "twins": taken.twins, "due": told.due.isoformat()}) + "\n")
        return 0
    lines = [f"{taken.request}, entry {taken.entry}: {taken.new:,} examples, due by {told.due:%Y-%m-%d}."]
    if not taken.new:
        lines = [
            f"A repetition of {taken.request} (entry {taken.entry}), which is {told.status}: nothing new is asked."
        ]
    lines += [
        f"{n:,} of those that were named belong to {r} already." for r, n in taken.known.items() if taken.new
    ]
    if taken.twins:
        lines += [
            f"{taken.twins:,} further examples equal a named one bit for bit under another id. They stay: ask for them "
            "by a request of their own, if they must go."
        ]
    say("\n".join(lines))
    return 0


def _subject(ledger: Ledger, asked: RequestOptions) -> Subject:
    if asked.project:
        return named(asked)
    if asked.folder != Folder() or asked.text_files != TextFiles():
        raise InputError("how a folder is read is for --project FOLDER: it would do nothing without one.")
    in_use = [v for v in ledger.state().in_use() if v.source is not None]
    if not in_use:
        raise InputError(
            f"{ledger.folder} has no model that it can open, so its data are unknown. Give --project."
        )
    return replace(opened(in_use[0], ledger, {}), model=None)


def _time(text: str) -> datetime | None:
    if not text:
        return None
    try:
        return datetime.fromisoformat(text)
    except ValueError as error:
        raise InputError(f"--received is written as 2026-11-28T09:30:00+01:00; got {text!r}.") from error
