"""The project that was named, opened, with what is to be told of it printed once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

from rich.console import Console

from ..errors import InputError
from ..jobs.opened import Folder, open_subject
from ..jobs.subject import Subject
from ..jobs.texts import OfTexts, TextFiles


def opened(
    source: str, folder: Folder | None = None, model: Path | None = None, texts: TextFiles | None = None
) -> Subject:
    """Open what the user named, with the weights that were named, and print its notes beside the output.

    Raises:
        InputError: if flags of a language model were given with another one.
    """
    subject = open_subject(source, folder, texts)
    if not isinstance(subject.kind, OfTexts):
        idle = [f.name for f in fields(TextFiles) if texts and getattr(texts, f.name) != f.default]
        if idle:
            raise InputError(f"--{idle[0]} is for a language model's folder: it would do nothing here.")
    tell(subject.notes)
    return subject if model is None else replace(subject, model=model)


def tell_before(subject: Subject) -> None:
    """Print what earlier requests deleted from the model that was named."""
    if subject.before.requests:
        Console(stderr=True, highlight=False, soft_wrap=True).print(
            f"deleted before: {subject.before}", markup=False
        )


def tell(notes: Sequence[str]) -> None:
    """Print notes to the standard error stream, one a line."""
    out = Console(stderr=True, highlight=False, soft_wrap=True)
    for note in notes:
        out.print(f"note: {note}", markup=False)
