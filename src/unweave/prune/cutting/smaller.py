"""A smaller model: tensors sliced, norms told how many they count, the configuration respelled where it can be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import LayerNorm, Module

from ...io.slim_config import TINY, Pairs, slimmed
from ...io.structure import Cuts, Numbers, cut_, record_of, renumber_
from ...masks.layers import RUNNING_NORMS
from ...models.units import Group, Place, Units, answers, find_units
from .constants import FixedError, fold_
from .numbers import renumbered_

_EQUAL = 1e-4  # largest difference of outputs, relative to the largest output, in float32

Run = Callable[[Module], Any]


@dataclass(frozen=True)
class Cut:
    """A smaller model.

    Attributes:
        model: without the units.
        structure: its record.
        apart: largest difference of its outputs from those of the whole model, relative to the largest.
    """

    model: Module
    structure: dict[str, Any]
    apart: float


def cut(
    whole: Module,
    units: Units,
    parts: Mapping[int, Tensor],
    run: Run,
    constants: str,
    *,
    exact: bool,
    respell: bool = True,
) -> Cut | str:
    """The model without some units of some groups; or why they cannot go.

    Args:
        whole: in eval mode; left unchanged.
        units: of it.
        parts: number of a group -> which of its units go, bool.
        run: calls a model.
        constants: as `shrink` takes it.
        exact: whether the outputs must stay equal; otherwise the units that are left must be the same ones.
        respell: whether a configuration is searched that says the smaller shape.
    """
    gone = _gone(units, parts)
    named = {**dict(whole.named_parameters()), **dict(whole.named_buffers())}
    sizes = {place: named[place[0]].shape[place[1]] for place in gone}
    cuts: Cuts = {place: _rest(sizes[place], at) for place, at in gone.items()}
    reads = {place for i in parts for place in units.groups[i].reads}
    model = deepcopy(whole)
    before = outputs(whole, run)
    try:
        biases = fold_(model, run, {p: at for p, at in gone.items() if p in reads}, constants)
        guards: Numbers = {}
        for i, dead in parts.items():
            if units.groups[i].counted:
                guards |= _rescale_(model, units.groups[i], len(dead) / int((~dead).sum()))
        renumber_(model, guards)
        cut_(model, cuts)
    except FixedError as reason:
        return str(reason)
    wanted = {i: _left(units.groups[i], dead, cuts) for i, dead in parts.items()}
    shared = {i for i in parts if units.groups[i].of is not None}

    def wrong(made: Module) -> float:
        apart = _apart(before, outputs(made, run))
        fault = sum(_differs(found, wanted[i]) for i, found in _found(made, run, wanted, shared).items())
        return fault + (min(apart, 0.5) if exact and constants == "fold" else 0.0)

    counts = {(len(dead), len(next(iter(wanted[i].values())))) for i, dead in parts.items()}
    inside = {at.shape[1] for i in parts for at in units.groups[i].places.values()} - {1}
    pairs = counts | {(n, n) for n in inside} | {(sizes[place], len(kept)) for place, kept in cuts.items()}
    best = None if biases or not respell else _respelled(model, pairs, wrong)
    numbers = {} if best else renumbered_(model, {i: units.groups[i] for i in parts}, wanted, wrong, _EQUAL)
    if numbers is None:
        return _why(model, run)
    best = best or model
    return Cut(best, record_of(sizes, cuts, biases, guards | numbers), _apart(before, outputs(best, run)))


def _why(model: Module, run: Run) -> str:
    try:
        outputs(model, run)
    except Exception:  # whatever the model's own code raises at other sizes
        return "without its dead channels the model does not run"
    return "without its dead channels the model computes something else"


def _respelled(model: Any, pairs: Pairs, wrong: Any) -> Any:
    """The model made anew from a configuration that says its shape, if it is one of transformers and there is one."""
    if not hasattr(getattr(model, "config", None), "to_dict"):
        return None

    def fault(made: Module) -> float:
        try:
            return float(wrong(made))
        except Exception:  # whatever the model's own code raises at other numbers
            return float("inf")

    return slimmed(model, pairs, fault)


def outputs(model: Module, run: Run) -> list[Tensor]:
    """What the model answers, in float32."""
    with torch.no_grad():
        return [t.float() for t in answers(run(model)) if t.is_floating_point()]


def _apart(before: list[Tensor], after: list[Tensor]) -> float:
    if [t.shape for t in before] != [t.shape for t in after]:
        return float("inf")
    gaps = [
        float((a - b).abs().max()) / max(1.0, float(a.abs().max()))
        for a, b in zip(before, after, strict=True)
        if a.numel()
    ]
    return max(gaps, default=0.0)


def _gone(units: Units, parts: Mapping[int, Tensor]) -> dict[Place, Tensor]:
    """The indices that go, rising, of each place."""
    gone: dict[Place, list[Tensor]] = {}
    for i, dead in parts.items():
        for place, at in units.groups[i].places.items():
            gone.setdefault(place, []).append(at[dead].reshape(-1))
    return {place: torch.tensor(sorted(set(torch.cat(some).tolist()))) for place, some in gone.items()}


def _rest(size: int, gone: Tensor) -> Tensor:
    stays = torch.ones(size, dtype=torch.bool)
    stays[gone] = False
    return stays.nonzero().flatten()


def _rescale_(model: Module, group: Group, ratio: float) -> Numbers:
    """Norms that count fewer units, of which those that went were zero, find them larger by the root of the ratio.

    Returns:
        What their guards against zero are to be, so that they answer the same; not of those that take off a mean.
    """
    modules = dict(model.named_modules())
    guards: Numbers = {}
    for name, _ in group.makers:
        owner = modules[name.rpartition(".")[0]]
        own = dict(owner.named_parameters(recurse=False))
        scale = name.endswith("weight") if isinstance(owner, LayerNorm) else len(own) == 1
        if scale and not isinstance(owner, RUNNING_NORMS) and all(p.ndim == 1 for p in own.values()):
            with torch.no_grad():
                own[name.rpartition(".")[2]].mul_(ratio**0.5)
            for attribute, value in vars(owner).items():
                if not isinstance(owner, LayerNorm) and type(value) is float and 0 < value < TINY:
                    guards[f"{name.rpartition('.')[0]}.{attribute}"] = (value, value * ratio)
    return guards


def is_centred(model: Module, group: Group) -> bool:
    """Whether a layer normalisation counts the units, in a mean that their zeros change."""
    modules = dict(model.named_modules())
    owners = [modules[name.rpartition(".")[0]] for name, _ in group.makers]
    return group.counted and any(isinstance(owner, LayerNorm) for owner in owners)


def _left(group: Group, dead: Tensor, cuts: Cuts) -> dict[Place, Tensor]:
    """The units that stay, by their new indices; of larger units and their parts both may have gone."""
    left = {}
    for place, at in group.places.items():
        rest = at[~dead]
        stays = torch.isin(rest, cuts[place])
        left[place] = torch.searchsorted(cuts[place], rest[stays]).view(int(stays.any(1).sum()), -1)
    return left


def _found(
    made: Module, run: Run, wanted: Mapping[int, dict[Place, Tensor]], parts: set[int]
) -> dict[int, dict[Place, Tensor]]:
    """The same groups of a model made anew; `parts` are the numbers of those whose units are parts of others'."""
    groups: dict[Place, list[Group]] = {}
    for group in find_units(made, run).groups:
        for place in group.places:
            groups.setdefault(place, []).append(group)
    found = {}
    for i, places in wanted.items():
        first = next(iter(places))
        same = [g for g in groups.get(first, []) if g.places.keys() == places.keys()]
        if i in parts:  # where one of each is left, they are no parts any more
            same = same or [g for g in groups.get(first, []) if g.places.keys() > places.keys()]
        found[i] = next(
            (g.places for g in same if len(g) == len(places[first])), same[0].places if same else {}
        )
    return found


def _differs(found: Mapping[Place, Tensor], wanted: Mapping[Place, Tensor]) -> bool:
    if not found:  # one unit alone is no group
        return len(next(iter(wanted.values()))) > 1
    return any(
        found[place].shape != at.shape or not torch.equal(found[place], at) for place, at in wanted.items()
    )
