"""What a chain of names such as "rigl+sam" stands for: an optimiser, a sparse training, a way to prune."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Annotated, Any

import torch
import tyro
from torch.optim import SGD, Optimizer

from ..catalogue import find, methods
from ..errors import InputError
from ._options import build, key_of, options_of

OWN = "recipe"
"""The name that stands for the recipe as it is."""


def with_training_options(options: type[Any], chains: Sequence[str]) -> type[Any]:
    """`options` with a group of flags for each optimiser, sparse training and pruning method named in `chains`."""
    extra = []
    for name in dict.fromkeys(name for chain in chains for name in chain.split("+") if name and name != OWN):
        cls, key, shown = _named(name)
        group = options_of(cls)
        if dataclasses.fields(group):
            named: Any = Annotated[group, tyro.conf.arg(name=shown)]
            extra.append((key, named, dataclasses.field(default_factory=group)))
    made = dataclasses.make_dataclass(options.__name__, extra, bases=(options,), kw_only=True, frozen=True)
    made.__doc__ = options.__doc__
    return made


def trained_with(recipe: Any, chain: str, asked: Any) -> Any:
    """`recipe` changed by what `chain` names.

    Args:
        recipe: with the fields `optimizer`, `sparse` and `prune`, as `Supervised` has.
        chain: names joined by "+": at most one optimiser and one sparse training or pruning method.
        asked: parsed options, with `base` (of optimisers that wrap one) and `sparsity` (None leaves the methods' own).

    Raises:
        InputError: if a name is unknown, cannot train or prune, or two are of one kind.
    """
    names = [name for name in chain.split("+") if name and name != OWN]
    have = {f.name for f in dataclasses.fields(recipe)} if dataclasses.is_dataclass(recipe) else set()
    if names and not {"optimizer", "sparse", "prune"} <= have:
        raise InputError(
            f"{chain!r} changes how the model is trained, but its recipe, a {type(recipe).__name__}, has no fields "
            "`optimizer`, `sparse` and `prune`. Use unweave.Supervised in project.py."
        )
    changes: dict[str, Any] = {}
    for name in names:
        cls, key, _ = _named(name)
        given = getattr(asked, key, None)
        kind, value = _part(name, cls, given, recipe, asked)
        if kind in changes:
            raise InputError(f"{chain!r} names two methods for one thing ({kind}). Give one.")
        changes[kind] = value
    if "sparse" in changes and "prune" in changes:
        raise InputError(f"{chain!r} names both a sparse training and a pruning method. Give one.")
    if "sparse" in changes:
        changes |= {"prune": None, "recover_epochs": 0}
    return dataclasses.replace(recipe, **changes) if changes else recipe


def refuse_idle_sparsity(sparsity: float | None, recipe: Any, changed: Iterable[Any]) -> None:
    """Raise InputError if a sparsity was asked for and nothing that was named prunes."""
    if sparsity is None:
        return
    if not any(c.sparse is not None or c.prune is not recipe.prune for c in changed):
        raise InputError(
            f"--sparsity {sparsity:g} was given, but nothing that was named prunes. Name a sparse training (gmp, rigl, "
            "...) or a way to prune (magnitude, snip, ...)."
        )


def _part(name: str, cls: type[Any], given: Any, recipe: Any, asked: Any) -> tuple[str, Any]:
    if issubclass(cls, Optimizer):
        return "optimizer", _optimizer(cls, given, recipe, asked.base)
    sparsity = asked.sparsity
    if hasattr(cls, "begin"):
        return "sparse", _at(build(cls, given, {}), sparsity)
    if hasattr(cls, "score"):
        from ..prune import Global, Prune

        return "prune", Prune(
            score=build(cls, given, {}), budget=Global(0.9 if sparsity is None else sparsity)
        )
    if hasattr(cls, "apply") and find(name).family == "prune":
        return "prune", _at(build(cls, given, {}), sparsity)
    raise InputError(
        f"{name} is neither an optimiser nor a way to prune or to train sparsely. Optimisers: "
        f"{', '.join(optimizers())}. Others: unweave list --family prune."
    )


def _optimizer(cls: type[Optimizer], given: Any, recipe: Any, base: str) -> Any:
    chosen = {f.name: getattr(given, f.name) for f in dataclasses.fields(given)} if given is not None else {}
    wanted = [
        name
        for name, p in inspect.signature(cls).parameters.items()
        if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD and name not in ("params", "lr")
    ]
    if wanted:
        raise InputError(
            f"{cls.__name__} needs {' and '.join(wanted)}, which a command line cannot give. Use it from Python."
        )
    decay = {"weight_decay": recipe.weight_decay}
    if "base" not in inspect.signature(cls).parameters:
        if cls is SGD and chosen == _defaults(cls):
            return None  # the recipe's own
        return partial(cls, **chosen)
    inner = _torch_optimizer(base or ("sgd" if hasattr(recipe, "momentum") else "adamw"))
    if inner is None:
        raise InputError(f"--base must be an optimiser of torch such as sgd or adamw; got {base!r}.")
    momentum = getattr(recipe, "momentum", 0.9)
    own = {**decay, "momentum": momentum, "nesterov": momentum > 0} if inner is SGD else decay
    return partial(cls, **{"base": inner, **own, **chosen})


def _defaults(cls: type[Any]) -> dict[str, Any]:
    group = options_of(cls)
    return {f.name: f.default for f in dataclasses.fields(group)}


def _at(method: Any, sparsity: float | None) -> Any:
    if sparsity is None:
        return method
    budget = getattr(method, "budget", None)
    if budget is not None and dataclasses.is_dataclass(budget) and not isinstance(budget, type):
        return dataclasses.replace(method, budget=dataclasses.replace(budget, sparsity=sparsity))
    if any(f.name == "sparsity" for f in dataclasses.fields(method)):
        return dataclasses.replace(method, sparsity=sparsity)
    raise InputError(f"--sparsity does not apply to {type(method).__name__}, which has no budget.")


def _named(name: str) -> tuple[type[Any], str, str]:
    plain = _torch_optimizer(name)
    if plain is not None:
        return plain, f"of_{name.lower()}", name.lower()
    method = find(name)
    return method.cls, key_of(method), method.name


def _torch_optimizer(name: str) -> type[Optimizer] | None:
    for exported in dir(torch.optim):
        cls = getattr(torch.optim, exported)
        if exported.lower() == name.lower() and inspect.isclass(cls) and issubclass(cls, Optimizer):
            return cls
    return None


def is_torch_optimizer(name: str) -> bool:
    """Whether torch itself has an optimiser of this name."""
    return _torch_optimizer(name) is not None


def optimizers() -> list[str]:
    """Names of the optimisers of this package, with torch's most used ones."""
    return ["sgd", "adamw", *(m.name for m in methods() if issubclass(m.cls, Optimizer))]
