"""Whether a data set gives the same examples each time it is read: a run is begun, continued and audited on that."""

from __future__ import annotations

from typing import Any

import torch

from ..errors import InputError
from ..types import Data
from .content import fingerprint

LOOKED_AT = 64
"""Examples read twice: a transform that changes one in ten readings passes unseen once in 300,000 times."""


def require_steady(data: Data[Any], what: str) -> None:
    """Refuse a data set whose examples differ from one reading to the next.

    Args:
        data: of which up to `LOOKED_AT` examples, spread evenly, are read twice.
        what: its name in the message.

    Raises:
        InputError: if they differ.
    """
    few = data.subset(torch.linspace(0, len(data) - 1, min(len(data), LOOKED_AT)).long())
    if fingerprint(few) != fingerprint(few):
        raise InputError(
            f"{what}: the examples differ from one reading to the next, as under random transforms, so that a stopped "
            "run could not go on and nothing could be compared. Take the transform out of the data set, and give it "
            "to the recipe: Supervised(augment=...)."
        )
