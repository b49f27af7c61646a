"""One row a method: how to make it for the contract's tiny world, and what it can do. Checks are in test_contract.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from tests.contract.world import NORMED, RECIPE


@dataclass(frozen=True, kw_only=True)
class Row:
    """A method's row.

    name: class name; the id of its tests.
    make: the method, set up for the tiny world (about a second of work).
    on: what `apply` takes: a Request, or a Data.
    make_normed: the same for the world's network with batch normalisation, where the method must know the network.
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
    make_normed: Callable[[], Any] | None = None
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
        Row(
            name="Continue",
            make=lambda: unlearn.Continue(recipe=RECIPE),
            bad=((lambda: unlearn.Continue(recipe=RECIPE, epochs=0), "epochs must be at least 1"),),
        ),
        Row(
            name="FineTune",
            make=lambda: unlearn.FineTune(lr=0.05),
            bad=((lambda: unlearn.FineTune(reset=True), "needs last_layers"),),
        ),
        Row(
            name="FixedMask",
            make=lambda: unlearn.FixedMask(unlearn=unlearn.FineTune(lr=0.05)),
            dense=False,
        ),
        Row(
            name="RandomLabels",
            make=lambda: unlearn.RandomLabels(epochs=4),
            off=lambda: unlearn.FineTune(epochs=4),
            bad=((lambda: unlearn.RandomLabels(alpha=-1.0), "alpha"),),
        ),
        Row(
            name="SalUn",
            make=lambda: unlearn.SalUn(unlearn=unlearn.RandomLabels(epochs=4)),
            off=lambda: unlearn.RandomLabels(epochs=4),
            bad=((lambda: unlearn.SalUn(density=1.5), "density must be in"),),
        ),
        Row(
            name="ShortRetrain",
            make=lambda: unlearn.ShortRetrain(recipe=RECIPE, epochs=2),
            make_normed=lambda: unlearn.ShortRetrain(recipe=NORMED, epochs=2),
            off=lambda: unlearn.FixedMask(unlearn=unlearn.Continue(recipe=RECIPE)),
            zeros="counted",
            dense=False,
            bad=((lambda: unlearn.ShortRetrain(recipe=RECIPE, lr=0.0), "lr must be positive"),),
        ),
        Row(
            name="Unprune",
            make=lambda: unlearn.Unprune(
                unlearn=unlearn.Continue(recipe=RECIPE), recipe=RECIPE, scout_epochs=3
            ),
            make_normed=lambda: unlearn.Unprune(
                unlearn=unlearn.Continue(recipe=NORMED), recipe=NORMED, scout_epochs=3
            ),
            off=lambda: unlearn.FixedMask(unlearn=unlearn.Continue(recipe=RECIPE)),
            zeros="counted",
            dense=False,
            bad=(
                (lambda: unlearn.Unprune(unlearn=None, recipe=RECIPE, rewind=1.5), "rewind must be in"),
                (lambda: unlearn.Unprune(unlearn=None, recipe=RECIPE, growth=0.0), "growth must be in"),
            ),
        ),
    ]


ROWS = _rows()
