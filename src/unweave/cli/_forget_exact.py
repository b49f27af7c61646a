"""`unweave forget` on the folder of a model that can forget exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ..errors import InputError
from ..jobs.exact import EMBEDDED, as_recorded, dense
from ..jobs.forget_exact import ForgetExactJob, source_of
from ..jobs.opened import Folder, open_subject
from ..jobs.subject import Subject
from ..unlearn.exact.folder import is_exact, read_record
from ._parse import named_methods, named_run, parse, show, typed

EXAMPLE = """  unweave forget runs/train-1a2b3c4d --ids delete.txt
  unweave forget runs/train-1a2b3c4d --random 10 --retrain dead --purge
  unweave forget project.py --model runs/train-1a2b3c4d --ids delete.txt --proof all
  unweave forget ./vit --data imagefolder:./pets --model runs/train-1a2b3c4d --ids delete.txt"""


@dataclass(frozen=True, kw_only=True)
class ForgetExact:
    """Delete from a model trained with --exact: switch off or retrain what saw the data, and compare the bits.

    Attributes:
        project: the folder that `unweave train --exact` or this command wrote, if its data are the embedded digits;
            else your project.py or transformers folder, with the folder as --model.
        model: the folder that `unweave train --exact` or this command wrote.
        folder: for a transformers folder.
        ids: file with the ids to delete, one a line (.txt), or with a column "id" (.csv, .parquet).
        classes: classes to delete, by name or number.
        where: delete examples whose column has this value: COLUMN=VALUE.
        random: delete this many examples drawn at random, to try things out.
        retrain: "none" trains nothing; "dead" trains the orders that are dead again on what is left; "all" every stage
            that was dropped. A SISA does "all", an S3T "none", unless given.
        proof: whose serving stages are trained again without the data, to compare every bit: of the shards "hit", of
            "all", or "none".
        purge: also remove the files that saw the data from the folder they are deleted from.
        seed: governs the whole run.
        out: folder of the run; the same command on the same folder goes on where it was stopped. Named by the settings
            unless given.
        json: print what was done as JSON.
    """

    project: tyro.conf.Positional[str] = ""
    model: Path | None = None
    folder: Annotated[Folder, tyro.conf.arg(name="")] = Folder()
    ids: Path | None = None
    classes: tuple[str, ...] = ()
    where: str = ""
    random: int | None = None
    retrain: Literal["none", "dead", "all"] | None = None
    proof: Literal["hit", "all", "none"] = "hit"
    purge: bool = False
    seed: int = 0
    out: Path | None = None
    json: bool = False


def exact_folder(argv: Sequence[str]) -> Path | None:
    """The exactly deletable model that a command names, as an argument or as --model; not the one it writes."""
    named = named_methods(argv, ("--model",), "")
    named += [a for before, a in zip(["", *argv], argv, strict=False) if before != "--out" and a[:1] != "-"]
    return next((folder for name in named if name and (folder := source_of(name)) and is_exact(folder)), None)


def forget_exact(folder: Path, argv: Sequence[str]) -> int:
    """Delete from it. Exit code 0 unless a bit differs from a run without the data, then 3."""
    asked: ForgetExact = parse(ForgetExact, argv, command="forget", example=EXAMPLE)
    job = ForgetExactJob(
        subject=_subject(folder, asked), folder=folder, ids=asked.ids, classes=asked.classes, where=asked.where,
        random=asked.random, retrain=asked.retrain, proof=asked.proof, purge=asked.purge, seed=asked.seed,
    )  # fmt: skip
    at = asked.out or named_run(
        "forget", job.plan(), asked.project, asked.model, asked.seed, folder.resolve()
    )
    done = job.run(at, command=typed("forget", argv))
    show(done, asked.json)
    return 3 if done.identical is False else 0


def _subject(folder: Path, asked: ForgetExact) -> Subject:
    """The data that the folder was trained on, with the recipe as it was then."""
    told = read_record(folder)
    project = "" if asked.project and source_of(asked.project) == folder else asked.project
    if not project and told["source"] != EMBEDDED:
        raise InputError(
            f"{folder} was trained on data of {told['source'] or 'a Python program'}, and a folder is never followed "
            f"out of itself. Name them: unweave forget {told['source'] or 'project.py'} --model {folder} --ids FILE."
        )
    return as_recorded(dense(open_subject(project, asked.folder)), told)
