"""What `unweave forget` and `unweave audit` share: which model, which data, what must go, what to compare with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from ..errors import InputError
from ..jobs.deletion import WAYS
from ..jobs.opened import Folder
from ..jobs.subject import Subject
from ..jobs.texts import TextFiles
from ..jobs.tracking import Tracker
from ._opened import opened


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which model, which data, and what must go.

    Attributes:
        project: your project.py, a transformers folder (of a classifier, or of a language model), or nothing for the
            embedded digits.
        model: weights of the trained model: .safetensors, .pt read as plain tensors, or a folder. Without it the model
            is trained first, by the recipe.
        folder: for a transformers folder.
        text_files: for a language model's.
        ids: file with the ids to delete, one a line (.txt), or with a column "id" (.csv, .parquet).
        classes: classes to delete, by name or number.
        where: delete examples whose column has this value: COLUMN=VALUE.
        random: delete this many examples drawn at random, to try things out.
        name: what the request is called in the run and its reports, which name neither ids nor the value in --where;
            "request-" and part of a hash under your key unless given.
        purge: after the verdict, remove what this run and the cache keep of models that were trained on the deleted
            data: they are listed in the report. Your own files, such as --model, are listed and never removed.
        oracles: models to retrain without the data, to compare with; 0 gives no verdict. 8, unless a language model has
            no --base.
        holders: models to retrain with the data, to know how much models differ by chance; as many unless given.
        given_oracles: models retrained without the data elsewhere: weights or folders. They come beside those above.
        given_holders: models trained with the data elsewhere.
        seed: governs the whole run.
        jobs: processes that train at once; 0 takes all cores.
        cache: folder of retrained models, shared between requests; UNWEAVE_CACHE or ~/.cache/unweave unless given.
        out: folder of the run; the same command on the same folder goes on where it was stopped. Named by the settings
            unless given.
        quick: spend less on the figures that train something (relearning) or draw samples; the verdict stays the same.
        dry_run: print how long it would take, and write nothing.
        tracker: also tell an experiment tracker: settings, the loss at every step, the figures at the end.
        json: print the audit as JSON.
    """

    project: tyro.conf.Positional[str] = ""
    model: Path | None = None
    folder: Annotated[Folder, tyro.conf.arg(name="")] = Folder()
    text_files: Annotated[TextFiles, tyro.conf.arg(name="")] = TextFiles()
    ids: Path | None = None
    classes: tuple[str, ...] = ()
    where: str = ""
    random: int | None = None
    name: str = ""
    purge: bool = False
    oracles: int | None = None
    holders: Annotated[int | None, tyro.conf.arg(aliases=["--held"])] = None  # its former name
    given_oracles: Annotated[tuple[Path, ...], tyro.conf.arg(name="oracle")] = ()
    given_holders: Annotated[tuple[Path, ...], tyro.conf.arg(name="holder")] = ()
    seed: int = 0
    jobs: int = 0
    cache: Path | None = None
    out: Path | None = None
    quick: bool = False
    dry_run: bool = False
    tracker: Tracker | None = None
    json: bool = False


def subject_of(asked: Any) -> Subject:
    """Open the project that was named, with the weights that were named."""
    return opened(asked.project, asked.folder, asked.model, getattr(asked, "text_files", None))


def selected(asked: Any, subject: Subject, *, needed: bool = True) -> dict[str, Any]:
    """The fields of a `Deletion`; if one is needed, of the embedded digits a fifth goes where nothing is named."""
    ways = {name: getattr(asked, name) for name in WAYS if name != "positions"}
    if needed and not (asked.ids or asked.classes or asked.where or asked.random is not None):
        if asked.project:
            raise InputError(
                "nothing to forget was named. Give --ids FILE, --classes NAME, --where COLUMN=VALUE or --random N."
            )
        ways["random"] = len(subject.train) // 5
    told = {"name": getattr(asked, "name", ""), "seed": asked.seed, "jobs": asked.jobs or None}
    return {**ways, **told, "subject": subject, "cache": asked.cache}
