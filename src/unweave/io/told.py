"""What a reader had to interpret is said, once, on the `unweave` logger: visible without any set-up."""

from __future__ import annotations

import logging
from functools import cache

_LOG = logging.getLogger("unweave")


@cache
def tell(sentence: str) -> None:
    """Say something that changes how a file was read, once a process."""
    _LOG.warning("%s", sentence)
