"""A bogus choice, NaN and -1 in every field of every method: each is refused by the field's name.

A number that may be negative says so by its annotation (`Number`).
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import types
import typing
from collections.abc import Callable
from typing import Annotated, Any, Literal, Union

import pytest

from tests.contract import world
from tests.contract.optimizers import OPTIMIZERS
from unweave.catalogue import Method, methods
from unweave.errors import InputError
from unweave.settings import Range, hints
from unweave.unlearn import FineTune

BOGUS = "no such choice"
GIVEN = {
    "recipe": world.RECIPE,
    "unlearn": FineTune(),
    "checkpoint": "early.safetensors",
    "classes": (1,),
    "pretrained_on": "noise",
}
"""What methods cannot be made without."""


def wrong(annotation: Any) -> list[Any]:
    """Values that an annotation must not take."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        ranges = [a for a in args[1:] if isinstance(a, Range)]
        negative = [-1] if all(-1 not in r for r in ranges) or not ranges else []
        return [*(v for v in wrong(args[0]) if v != -1), *(negative if args[0] in (int, float) else [])]
    if annotation is float:
        return [math.nan, math.inf, -1, BOGUS]
    if annotation is int:
        return [-1, 0.5, BOGUS]
    if annotation is bool:
        return [BOGUS, 2]
    if origin is Literal:
        return [BOGUS]
    if origin in (Union, types.UnionType):
        each = [wrong(a) for a in args]
        kinds = [k for k in args if k is not type(None)]
        return (
            each[args.index(kinds[0])]
            if len(kinds) == 1
            else [v for v in (math.nan,) if all(_has(e, v) for e in each)]
        )
    if origin is tuple:
        return [(v,) for v in wrong(args[0])] if args[-1:] == (Ellipsis,) else []
    return []


def _has(values: list[Any], value: float) -> bool:
    return (
        any(isinstance(v, float) and math.isnan(v) for v in values) if math.isnan(value) else value in values
    )


def fields(kind: type[Any]) -> dict[str, Any]:
    """Name -> annotation of a method's settings."""
    if dataclasses.is_dataclass(kind):
        told = hints(kind)
        return {f.name: told[f.name] for f in dataclasses.fields(kind) if f.init}
    told = hints(kind.__init__)
    return {n: told[n] for n in inspect.signature(kind.__init__).parameters if n in told}


def needed(method: Method) -> Callable[[dict[str, Any]], Any]:
    """Make the method with these settings and whatever it cannot be made without."""
    cls = method.cls
    if dataclasses.is_dataclass(cls):
        given: dict[str, Any] = {
            f.name: GIVEN[f.name]
            for f in dataclasses.fields(cls)
            if f.default is f.default_factory is dataclasses.MISSING
        }
        return lambda values: cls(**given | values)
    rows = {row.name: row for row in OPTIMIZERS}
    if cls.__name__ in rows:
        return lambda values: rows[cls.__name__].make(world.network().parameters(), **{"lr": 0.1} | values)
    import torch

    first = [torch.nn.Linear(2, 2)] if "head" in inspect.signature(cls).parameters else []
    return lambda values: cls(*first, **values)


CASES = [
    pytest.param(m, name, value, id=f"{m.cls.__name__}.{name}={value!r}")
    for m in methods()
    for name, annotation in fields(m.cls).items()
    for value in wrong(annotation)
]


@pytest.mark.parametrize(("method", "name", "value"), CASES)
def test_is_refused_by_its_name(method: Method, name: str, value: Any) -> None:
    with pytest.raises(InputError, match=rf"\.{name} must be .*; got "):
        needed(method)({name: value})


@pytest.mark.parametrize("method", methods(), ids=lambda m: m.cls.__name__)
def test_every_number_says_its_range(method: Method) -> None:
    """A bare float or int takes -1; one that is meant to is a `Number`."""
    bare = [name for name, annotation in fields(method.cls).items() if _bare(annotation)]
    assert not bare, (
        f"{method.cls.__name__}: annotate {', '.join(bare)} (settings.Positive, Count, Number, ...)"
    )


def _bare(annotation: Any) -> bool:
    if typing.get_origin(annotation) is Annotated:
        return False
    if typing.get_origin(annotation) in (Union, types.UnionType, tuple):
        return any(_bare(a) for a in typing.get_args(annotation))
    return annotation in (int, float)


def test_the_net_is_not_empty() -> None:
    assert len(CASES) > 500
