"""What `unweave prune` prunes, and how it recovers: a subject and the fields of a job from its flags."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from typing import Any

from ..catalogue import find
from ..errors import InputError
from ..jobs.language import Texts, instructions_for, language_subject
from ..jobs.opened import Folder
from ..jobs.subject import Subject
from ..prune import Recovery
from ._named import make
from ._opened import tell
from ._selection import subject_of


def pruned_subject(asked: Any) -> Subject:
    """The language model with its texts where --calibration names some, or what else was named.

    Raises:
        InputError: if a flag would do nothing, or what was named cannot be used.
    """
    texts: Texts = asked.texts
    if texts.calibration is None:
        _refuse(
            _set(texts, Texts()), "is for a language model: name its texts too (--calibration texts.txt)."
        )
        return subject_of(asked)
    if not asked.project:
        raise InputError("--calibration is for a language model's transformers folder: name it first.")
    _refuse(_set(asked.folder, Folder()), "is for a classifier: it would do nothing beside --calibration.")
    subject = language_subject(
        asked.project, texts.calibration, heldout=texts.heldout, length=texts.length, stride=texts.stride,
        batch=texts.batch,
    )  # fmt: skip
    tell(subject.notes)
    return subject if asked.model is None else replace(subject, model=asked.model)


def recovery(asked: Any) -> dict[str, Any]:
    """The fields of a `PruneJob` that say how it recovers."""
    if asked.recover is None:
        _refuse(
            ["--instructions"] if asked.texts.instructions else [],
            "needs --recover: nothing would be trained.",
        )
        return {"recover_epochs": asked.recover_epochs, "recover_lr": asked.recover_lr}
    how: dict[str, Any] = {
        "recover": Recovery(by=asked.recover, epochs=asked.recover_epochs or 1, lr=asked.recover_lr)
    }
    texts: Texts = asked.texts
    if texts.instructions is not None:
        how["instructions"] = instructions_for(
            asked.project, texts.instructions, length=texts.length, batch=texts.batch
        )
        how["chooser"] = make(find("paser"), asked)
    return how


def _set(group: Any, usual: Any) -> list[str]:
    names = (f.name for f in dataclasses.fields(group) if getattr(group, f.name) != getattr(usual, f.name))
    return [f"--{name.replace('_', '-')}" for name in names]


def _refuse(flags: list[str], why: str) -> None:
    if flags:
        raise InputError(f"{' and '.join(flags)} {why}")
