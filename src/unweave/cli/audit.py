"""`unweave audit`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..jobs.audit import AuditJob
from ._judged import carry_out, judged
from ._parse import parse
from ._selection import Selection, subject_of

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
    job = AuditJob(edited=asked.edited, method=asked.edited.stem, **judged(asked, subject_of(asked)))
    return carry_out(job, asked, "audit", argv)
