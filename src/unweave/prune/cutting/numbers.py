"""Whole numbers that layers keep of how many units they have, told anew where some went."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import combinations, groupby
from math import inf
from os.path import commonprefix

from torch import Tensor
from torch.nn import Module

from ...io.structure import Numbers, renumber_
from ...models.units import Group, Place


def renumbered_(
    model: Module, groups: Mapping[int, Group], left: Mapping[int, Mapping[Place, Tensor]],
    wrong: Callable[[Module], float], bound: float,
) -> Numbers | None:  # fmt: skip
    """Find the layers' own numbers with which a cut model is right, such as how many queries share keys and values.

    Numbers of the layer that holds all places of a group are tried: those that are one of the group's sizes, by
    themselves, two together, and all, alike in all layers of a kind.

    Args:
        model: whose tensors are already cut; it gets the numbers that are found.
        groups: number -> group that was cut.
        left: number -> the units that are left of it, by their new indices.
        wrong: how wrong a model is; it may raise.
        bound: of what is right.

    Returns:
        What was changed; nothing if the model is right as it is, None if no numbers make it so.
    """

    def fault() -> float:
        try:
            return wrong(model)
        except Exception:  # whatever the model's own code raises at other numbers
            return inf

    if fault() <= bound:
        return {}
    found = dict(_candidates(model, groups, left))
    kinds: list[Numbers] = [
        {name: found[name] for name in alike}
        for _, alike in groupby(sorted(found, key=lambda n: _kind(model, n)), lambda n: _kind(model, n))
    ]
    for some in (*_some(kinds, 1), *_some(kinds, 2), *_some(kinds, len(kinds))):
        renumber_(model, some)
        if fault() <= bound:
            return some
        renumber_(model, {name: (kept, of) for name, (of, kept) in some.items()})
    return None


def _some(kinds: list[Numbers], n: int) -> Iterator[Numbers]:
    for chosen in combinations(kinds, n):
        yield {name: pair for numbers in chosen for name, pair in numbers.items()}


def _kind(model: Module, name: str) -> tuple[str, str]:
    owner, _, own = name.rpartition(".")
    return type(model.get_submodule(owner)).__qualname__, own


def _candidates(
    model: Module, groups: Mapping[int, Group], left: Mapping[int, Mapping[Place, Tensor]]
) -> Iterator[tuple[str, tuple[int, int]]]:
    for i, group in groups.items():
        owner = _owner([name for name, _ in group.places])
        sizes = {len(group): len(next(iter(left[i].values())))}
        if group.of is not None:
            larger = int(group.of.max()) + 1
            sizes |= {len(group) // larger: next(iter(sizes.values())) // larger}
        sizes |= {at.numel(): left[i][place].numel() for place, at in group.places.items()}
        for own, value in vars(model.get_submodule(owner)).items():
            if type(value) is int and sizes.get(value, value) != value:
                yield f"{owner}.{own}" if owner else own, (value, sizes[value])


def _owner(names: list[str]) -> str:
    """The module that holds all of these tensors."""
    parts = [name.split(".")[:-1] for name in names]
    return ".".join(commonprefix(parts))
