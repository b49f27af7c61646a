"""One row a method: how to make it for the contract's tiny world, and what it can do. Checks are in test_contract.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from tests.contract.world import RECIPE


@dataclass(frozen=True, kw_only=True)
class Row:
    """A method's row.

    name: class name; the id of its tests.
    make: the method, set up for the tiny world (about a second of work).
    on: what `apply` takes: a Request, or a Data.
    off: the same method with its own term switched off, as a control; None compares with the untouched model.
    zeros: what happens to a pruned model's zeros: "kept" in place, "counted" (as many a layer), "refused".
    dense: whether it accepts a model without zeros.
    dtypes: floating types it works in.
    least: smallest relative change of the weights that counts as acting.
    bad: constructors that must raise InputError, each with a pattern of the message.
    """

    name: str
    make: Callable[[], Any]
    on: Literal["request", "data"] = "request"
    off: Callable[[], Any] | None = None
    zeros: Literal["kept", "counted", "refused"] = "kept"
    dense: bool = True
    dtypes: tuple[str, ...] = ("float32", "bfloat16")
    least: float = 1e-4
    bad: tuple[tuple[Callable[[], Any], str], ...] = field(default=())


def _rows() -> list[Row]:
    from unweave import prune, unlearn  # noqa: F401

    _ = RECIPE
    return [
        # one row a method, in the order of the alphabet
    ]


ROWS = _rows()
