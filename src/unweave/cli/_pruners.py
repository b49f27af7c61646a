"""The way to prune that `--method`, `--sparsity`, `--pattern` and `--budget` name together."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, get_args

from ..catalogue import Method, find
from ..errors import InputError
from ..masks.budgets import ERK, Budget, Global, Uniform
from ..masks.patterns import NM, Channel, Heads, Pattern, Unstructured
from ..masks.scope import Scope
from ..prune import Prune
from ..settings import hints
from ..types import Data, Edit
from ._fields import default_of
from ._named import make

BUDGETS: dict[str, Callable[[float], Budget]] = {"global": Global, "uniform": Uniform, "erk": ERK}
PRUNING = ("sparsity", "budget", "pattern", "scope")
"""Fields of a pruning method that flags of `unweave prune` itself set."""


def pruner(asked: Any) -> Edit[Data[Any]]:
    """Make the way to prune from all flags.

    Raises:
        InputError: if the method does not prune a trained model, or a flag would do nothing.
    """
    pattern = _pattern(asked.pattern, asked.heads)
    usual = pattern.sparsity if isinstance(pattern, NM) else 0.5 if asked.texts.calibration else 0.9
    sparsity = usual if asked.sparsity is None else asked.sparsity
    budget = _budget(asked)(sparsity)
    method = find(asked.method)
    here = {"sparsity": sparsity, "budget": budget, "pattern": pattern, "scope": _scope(method, asked)}
    if method.family != "prune" or method.role not in ("Edit", "Score"):
        sparse = method.role == "SparseTraining"
        where = " It trains from the start: use `unweave train --sparse`." if sparse else ""
        raise InputError(
            f"{method.name} does not prune a trained model.{where} See: unweave list --family prune."
        )
    fields = {f.name for f in dataclasses.fields(method.cls)}
    _require_channels(method, pattern)
    built = make(method, asked, {name: value for name, value in here.items() if name in fields})
    if "scope" not in fields:
        _refuse_idle(method, {*fields, *PRUNING} - {"scope"}, asked)
    if method.role == "Score":
        return Prune(score=built, pattern=pattern, budget=budget)
    _refuse_idle(method, fields, asked)
    edit: Edit[Data[Any]] = built
    return edit


def _require_channels(method: Method, pattern: Pattern) -> None:
    cls: Any = method.cls
    taken = get_args(hints(cls).get("pattern"))
    if isinstance(pattern, Channel) and taken and Channel not in taken:
        raise InputError(
            f"{method.name} prunes single weights, or N:M, and no whole channels. Name what chooses these (--method "
            "magnitude, taylor or wanda), or leave out what asks for them (--pattern channel; --target macs, latency)."
        )


def _budget(asked: Any) -> Callable[[float], Budget]:
    """How much of each layer lives: one threshold for all weights, but the same share of every layer's channels.

    Channels of layers of different widths are no equals: under one threshold the small ones fall, and half of the
    channels are far from half of the model.
    """
    return BUDGETS[asked.budget or ("uniform" if asked.pattern == "channel" else "global")]


def _scope(method: Method, asked: Any) -> Scope:
    """The method's own scope, less what the flags leave out; a whole channel of the last layer is a class."""
    own = next((default_of(f) for f in dataclasses.fields(method.cls) if f.name == "scope"), Scope())
    return dataclasses.replace(
        own, only=asked.only, skip=asked.skip, least=asked.least, last=own.last and asked.pattern != "channel"
    )


def _refuse_idle(method: Method, fields: set[str], asked: Any) -> None:
    said = {
        "sparsity": asked.sparsity is not None, "pattern": asked.pattern != "unstructured",
        "budget": asked.budget is not None, "only": bool(asked.only), "skip": bool(asked.skip),
        "least": asked.least != Scope().least,
    }  # fmt: skip
    takes = fields | ({"sparsity"} if "budget" in fields else set())
    takes |= {"only", "skip", "least"} if "scope" in fields else set()
    idle = [f"--{name}" for name, was in said.items() if was and name not in takes]
    if idle:
        raise InputError(
            f"{method.name} does not take {' or '.join(idle)}; it has flags of its own: add --help."
        )


def _pattern(text: str, heads: Heads) -> Pattern:
    if text == "channel":
        return Channel(heads=heads)
    if heads != Channel().heads:
        raise InputError(
            f"--heads {heads} is for whole channels: it would do nothing without --pattern channel."
        )
    if text == "unstructured":
        return Unstructured()
    n, colon, m = text.partition(":")
    if not (colon and n.isdigit() and m.isdigit()):
        raise InputError(f'--pattern must be "unstructured", "channel" or N:M such as "2:4"; got {text!r}.')
    return NM(n=int(n), m=int(m))
