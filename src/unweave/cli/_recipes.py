"""What a chain of names such as "rigl+sam" makes of a recipe: an optimiser, a sparse training, a way to prune."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

from ..catalogue import Method, find, methods, roles_of
from ..errors import InputError
from ..fit.own_loop import OwnLoop
from ..jobs.prune import at_sparsity
from ..prune import Global, Prune
from ._flags import key_of, options_of, with_groups
from ._named import build
from ._optimizers import optimizer, own_settings, torch_optimizer

OWN = "recipe"
"""The name that stands for the recipe as it is."""


def with_training_options(options: type[Any], chains: Iterable[str]) -> type[Any]:
    """`options` with a group of flags for each optimiser, sparse training and pruning method named in `chains`."""
    names = dict.fromkeys(name for chain in chains for name in _names(chain))
    found = (named(name) for name in names)
    return with_groups(options, ((key_of(m.name), m.name, options_of(m.cls)) for m in found))


def trained_with(recipe: Any, chain: str, asked: Any) -> Any:
    """`recipe` changed by what `chain` names.

    Args:
        recipe: with the fields `optimizer`, `sparse` and `prune`, as `Supervised` has.
        chain: names joined by "+": at most one optimiser and one sparse training or pruning method.
        asked: parsed options, with `base` (of optimisers that wrap one) and `sparsity` (None leaves the methods' own).

    Raises:
        InputError: if a name is unknown, cannot train or prune, or two are of one kind.
    """
    changes: dict[str, Any] = {}
    for name in _names(chain):
        field, value = _part(named(name), recipe, asked)
        if field in changes:
            raise InputError(f"{chain!r} names two methods for one thing ({field}). Give one.")
        changes[field] = value
    if "sparse" in changes and "prune" not in changes:
        changes |= {"prune": None, "recover_epochs": 0}
    if changes.get("optimizer") is not None:
        changes |= own_settings(recipe)
    return changed(recipe, **changes)


def changed(recipe: Any, **fields: Any) -> Any:
    """`recipe` with other fields.

    Raises:
        InputError: if it has no such fields.
    """
    have = {f.name for f in dataclasses.fields(recipe)} if dataclasses.is_dataclass(recipe) else set()
    absent = [name for name in fields if name not in have]
    if absent:
        own = isinstance(recipe, OwnLoop)
        what = "is a function that trains, and" if own else f", a {type(recipe).__name__},"
        cure = "Set it in that function, or" if own else "To set it"
        raise InputError(
            f"the recipe {what} has no {' and '.join(absent)} to set. {cure} use unweave.Supervised.".replace(
                " ,", ","
            )
        )
    return dataclasses.replace(recipe, **fields) if fields else recipe


def refuse_idle_sparsity(sparsity: float | None, recipe: Any, made: Iterable[Any]) -> None:
    """Raise InputError if a sparsity was asked for and nothing that was named prunes."""
    if sparsity is not None and not any(prunes(r, recipe) for r in made):
        raise InputError(
            f"--sparsity {sparsity:g} was given, but nothing that was named prunes. Name a sparse training (gmp, rigl, "
            "...) or a way to prune (magnitude, snip, ...)."
        )


def named(name: str) -> Method:
    """The optimiser of torch of this name, or our method."""
    plain = torch_optimizer(name)
    return Method("torch", name.lower(), plain) if plain is not None else find(name)


def _names(chain: str) -> Iterator[str]:
    return (name for name in chain.split("+") if name and name != OWN)


def _part(method: Method, recipe: Any, asked: Any) -> tuple[str, Any]:
    """The field of a recipe that a method fills, and what with."""
    roles, options = roles_of(method.cls), getattr(asked, key_of(method.name), None)
    if "Optimizer" in roles:
        return "optimizer", optimizer(method.cls, options, recipe, asked.base)
    if "SparseTraining" in roles:
        return "sparse", _at(build(method.cls, options, {}), asked.sparsity)
    if "Score" in roles:
        budget = Global(0.9 if asked.sparsity is None else asked.sparsity)
        return "prune", Prune(score=build(method.cls, options, {}), budget=budget)
    if "Edit" in roles and method.family == "prune":
        return "prune", _at(build(method.cls, options, {}), asked.sparsity)
    optimizers = ["sgd", "adamw", *(m.name for m in methods() if m.role == "Optimizer")]
    raise InputError(
        f"{method.name} is neither an optimiser nor a way to prune or to train sparsely. Optimisers: "
        f"{', '.join(optimizers)}. Others: unweave list --family prune."
    )


def _at(method: Any, sparsity: float | None) -> Any:
    return method if sparsity is None else at_sparsity(method, sparsity)


def prunes(made: Any, recipe: Any) -> bool:
    """Whether a recipe made from `recipe` prunes, or trains sparsely."""
    now = getattr(made, "prune", None)
    return getattr(made, "sparse", None) is not None or now is not getattr(recipe, "prune", None)
