"""What a reader had to interpret is said, once, on the `unweave` logger: visible without any set-up."""

from __future__ import annotations

import logging
from functools import cache
from pathlib import Path

_LOG = logging.getLogger("unweave")
_SAID: list[str] = []


@cache
def tell(sentence: str) -> None:
    """Say something that changes how a file was read, once a process."""
    _SAID.append(sentence)
    _LOG.warning("%s", sentence)


def told_of(path: Path | str) -> tuple[str, ...]:
    """What was said so far of a file, or of what lies in a folder: sentences that begin with its path."""
    begins = tuple(f"{path}{end}" for end in (":", "/"))
    return tuple(sentence for sentence in _SAID if sentence.startswith(begins))
