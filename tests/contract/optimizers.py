"""One row an optimiser: how to make it. Checks are in test_optimizers.py."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor
from torch.optim import Optimizer


@dataclass(frozen=True, kw_only=True)
class OptimizerRow:
    """An optimiser's row.

    name: class name; the id of its tests.
    make: (parameters, lr=...) -> the optimiser, with SGD as its base where it wraps one.
    calls: closure calls of each of the first six steps that run backward.
    probes: closure calls of each step under `no_grad`.
    plain: its base with its own term switched off ("rho=0 is SGD"), to compare bit for bit with SGD(lr=..., momentum=0.9).
    zeros: whether a mask held by `fit_` makes sense for it ("kept"), or rotates coordinates ("warned").
    closure: whether it can do without a closure ("optional") or must have one ("needed").
    dtypes: floating types it works in.
    bad: constructors, given the parameters, that must raise, each with a pattern of the message.
    """

    name: str
    make: Callable[..., Optimizer]
    calls: tuple[int, ...] = (1,) * 6
    probes: int = 0
    plain: Callable[..., Optimizer] | None = None
    zeros: Literal["kept", "warned"] = "kept"
    closure: Literal["optional", "needed"] = "needed"
    dtypes: tuple[str, ...] = ("float32", "bfloat16")
    bad: tuple[tuple[Callable[[Iterable[Tensor]], Any], str], ...] = field(default=())


def _rows() -> list[OptimizerRow]:
    return [
        # one row an optimiser, in the order of the alphabet
    ]


OPTIMIZERS = _rows()
