"""What an optimiser's name on the command line stands for, beside a recipe with an optimiser of its own."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch.optim import SGD, Optimizer

from ..errors import InputError
from ._flags import options_of


def torch_optimizer(name: str) -> type[Optimizer] | None:
    """The optimiser that torch itself has under this name; None if it has none."""
    exported = {known.lower(): getattr(torch.optim, known) for known in dir(torch.optim)}
    cls = exported.get(name.lower())
    return cls if inspect.isclass(cls) and issubclass(cls, Optimizer) else None


def optimizer(cls: type[Optimizer], given: Any, recipe: Any, base: str) -> Callable[..., Optimizer] | None:
    """What makes the optimiser, called with (parameters, lr=...); None is the recipe's own.

    Args:
        cls: of the optimiser.
        given: its parsed flags.
        recipe: whose weight decay and momentum an optimiser wrapped by `cls` takes over.
        base: name of the optimiser that it wraps, if it wraps one; "" is the recipe's own.

    Raises:
        InputError: if it needs what a command line cannot give, or torch has no such base.
    """
    chosen = {f.name: getattr(given, f.name) for f in dataclasses.fields(given)} if given is not None else {}
    arguments = inspect.signature(cls).parameters
    wanted = [
        name
        for name, p in arguments.items()
        if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD and name not in ("params", "lr")
    ]
    if wanted:
        raise InputError(
            f"{cls.__name__} needs {' and '.join(wanted)}, which a command line cannot give. Use it from Python."
        )
    if "base" not in arguments:
        defaults = {f.name: f.default for f in dataclasses.fields(options_of(cls))}
        return None if cls is SGD and chosen == defaults else partial(cls, **chosen)  # None: the recipe's own
    if not base:
        return partial(cls, **{"base": _own(recipe, cls), **chosen})
    inner = torch_optimizer(base)
    if inner is None:
        raise InputError(f"--base must be an optimiser of torch such as sgd or adamw; got {base!r}.")
    own: dict[str, Any] = {"weight_decay": getattr(recipe, "weight_decay", 0.0)}
    if inner is SGD:
        momentum = getattr(recipe, "momentum", 0.9)
        own |= {"momentum": momentum, "nesterov": momentum > 0}
    return partial(cls, **{"base": inner, **own, **chosen})


def _own(recipe: Any, around: type[Optimizer]) -> Callable[..., Optimizer]:
    """What makes the recipe's own optimiser.

    Raises:
        InputError: if it has none that can be wrapped, or its own wraps another already.
    """
    own: Callable[..., Optimizer] | None = getattr(recipe, "stepper", None)
    if own is None:
        raise InputError(
            f"{around.__name__} wraps the recipe's own optimiser, and this recipe, a {type(recipe).__name__}, shows "
            "none. Name one with --base (sgd, adamw), and use unweave.Supervised."
        )
    kind = getattr(own, "func", own)
    if inspect.isclass(kind) and "base" in inspect.signature(kind).parameters:
        raise InputError(
            f"the recipe's optimiser, {kind.__name__}, wraps another already; {around.__name__} around it is not what "
            "either paper describes. Name what to wrap with --base (sgd, adamw)."
        )
    return own


def own_settings(recipe: Any) -> dict[str, Any]:
    """What a recipe gives its own optimiser, back at its defaults: another one has it as arguments."""
    own: Sequence[str] = getattr(recipe, "of_own_optimizer", ())
    return {f.name: f.default for f in dataclasses.fields(recipe) if f.name in own} if own else {}
