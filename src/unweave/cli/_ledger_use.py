"""`unweave ledger use`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from ..jobs.ledger import Ledger
from ._parse import parse, say


@dataclass(frozen=True, kw_only=True)
class UseOptions:
    """Put another version of a model into use. One that holds what a request deleted is refused.

    Attributes:
        ledger: its folder.
        name: of the model.
        version: digest, its first 8 or more digits.
        by: who answers for a version that was not released.
        reason: why it is used all the same.
    """

    ledger: tyro.conf.Positional[Path]
    name: tyro.conf.Positional[str]
    version: tyro.conf.Positional[str]
    by: str = ""
    reason: str = ""


def use(argv: Sequence[str]) -> int:
    """Put a version into use."""
    example = "  unweave ledger use ./deletions main 3f2a9c41"
    asked: UseOptions = parse(UseOptions, argv, command="ledger use", example=example)
    version = Ledger(asked.ledger).models.use(asked.name, asked.version, by=asked.by, reason=asked.reason)
    say(f"{version.name} is {version.digest[:12]} now: {asked.ledger / 'serving' / version.name}")
    return 0
