"""`unweave audit`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError
from ..jobs.world import open_world
from ._options import parse
from .forget import Selection, carry_out

EXAMPLE = (
    "  unweave audit project.py --model before.safetensors --edited after.safetensors "
    "--ids delete.txt --out runs/check"
)


@dataclass(frozen=True, kw_only=True)
class Audit(Selection):
    """Judge a model that was edited elsewhere: nearer to the model before, or to models retrained without the data?

    Attributes:
        edited: weights of the model to judge, of the same architecture.
    """

    edited: Path


Audit.__doc__ = f"{Audit.__doc__}".rstrip() + "\n" + (Selection.__doc__ or "").partition("Attributes:\n")[2]


def run(argv: Sequence[str]) -> int:
    """Audit. Exit code 0 if the verdict is `forgotten`, else 3."""
    asked: Audit = parse(Audit, argv, command="audit", example=EXAMPLE)
    if asked.model is None:
        raise InputError(
            "--model is missing: an audit compares the edited model with the one before. Give its weights."
        )
    world = open_world(asked.project, asked.folder)
    return carry_out(asked, world, "audit", argv, edited={asked.edited.stem: asked.edited})
