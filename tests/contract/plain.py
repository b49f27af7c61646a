"""One row for each method that is neither an edit nor an optimiser: a loss, a module, a choice of data.

Checks are in test_plain.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Generator, Tensor


@dataclass(frozen=True, kw_only=True)
class PlainRow:
    """A method's row.

    name: class name; the id of its tests.
    run: (generator) -> what it computes on a tiny input made on the spot (always the same), as named tensors;
        about a second of work.
    off: the same with the method's own term switched off; None where it has none.
    random: whether another seed gives another result.
    bad: calls that must raise InputError, each with a pattern of the message.
    """

    name: str
    run: Callable[[Generator], dict[str, Tensor]]
    off: Callable[[Generator], dict[str, Tensor]] | None = None
    random: bool = True
    bad: tuple[tuple[Callable[[], Any], str], ...] = field(default=())


def _rows() -> list[PlainRow]:
    return [
        # one row a method, in the order of the alphabet
    ]


PLAIN = _rows()
