"""What `unweave forget` and `unweave audit` compare with, and how they are carried out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from ..jobs.estimate import repeating
from ..jobs.judging import Judging
from ..jobs.subject import Subject
from ..jobs.texts import OfTexts
from ._opened import tell
from ._parse import carried_out
from ._selection import selected

USUAL = 8
"""Models of either kind to compare with."""


def judged(asked: Any, subject: Subject) -> dict[str, Any]:
    """The fields of a `Judging`."""
    more = {name: getattr(asked, name) for name in ("given_oracles", "given_holders", "quick", "purge")}
    usual = 0 if isinstance(subject.kind, OfTexts) and subject.recipe is None else USUAL
    for name in ("oracles", "holders"):
        asked_for = getattr(asked, name)
        more[name] = usual if asked_for is None else asked_for
    return {**selected(asked, subject), **more}


def carry_out(job: Judging, asked: Any, command: str, argv: Sequence[str]) -> int:
    """Run the job or estimate it, and print. Exit code 0 if the verdict is `forgotten`, else 3."""
    if asked.dry_run:
        tell(repeating(job.subject.recipe, job.subject.train))
        return _show_estimate(job.estimate(), asked.json)
    return 0 if carried_out(job, asked, command, argv, asked.project, asked.seed, asked.model).passed else 3


def _show_estimate(seconds: Mapping[str, float], as_json: bool) -> int:
    out = Console(highlight=False, soft_wrap=True)
    total = sum(seconds.values())
    if as_json:
        out.print(json.dumps({"seconds": dict(seconds), "total": total}, indent=1), markup=False)
        return 0
    for name, value in seconds.items():
        out.print(f"  {name:40} {value:9.1f} s", markup=False)
    out.print(
        f"  {'in all, about':40} {total:9.1f} s\nNothing was written. Models in the cache cost nothing again.",
        markup=False,
    )
    return 0
