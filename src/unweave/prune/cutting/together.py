"""Which units of a model live: filters ranked with everything that falls with them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from ...errors import InputError
from ...masks.budgets import ERK, Budget, Uniform
from ...masks.layers import copied
from ...masks.mask import Mask
from ...masks.patterns import Channel, Reduce, Unstructured
from ...masks.scope import matrices
from ...masks.select import select
from ...models.units import OUTPUT, Group, Units, find_units
from ...types import Data
from .dead import out_dim, places_of

FLOOR = 0.1
"""Share of its channels that the first and the last layer keep at least."""


class NarrowWarning(UserWarning):
    """A layer is left with so few of its channels that little can pass through it."""


@dataclass(frozen=True)
class Ranked:
    """Groups of a model that are chosen from, and weights whose filters are chosen one by one.

    Attributes:
        groups: name -> group in scope; where some are parts of others, either these or those.
        alone: weights in scope whose outputs are in no group; not those of the model itself, unless nothing else is.
        scored: all weights in scope.
    """

    groups: Mapping[str, Group]
    alone: list[str]
    scored: Sequence[str]


def units_of(model: Module, data: Data[Any]) -> Units:
    """The units of a model, seen on one batch; none where it cannot be followed."""
    batch = next(iter(data.batches()))
    try:
        return find_units(copied(model).eval(), lambda m: data.task.outputs(m, batch))
    except (RuntimeError, TypeError, AttributeError, NotImplementedError):
        return Units([], {})


def ranked(model: Module, units: Units, scored: Sequence[str], pattern: Channel) -> Ranked:
    """What is chosen from: groups whose makers are all scored, and the filters of layers in no group.

    Args:
        model: whose units they are.
        units: of it.
        scored: the weights in scope.
        pattern: whether channels that layer normalisations count are taken.
    """
    known = {w.name for w in matrices(model) if w.left in ("", "frozen")}  # bare parameters follow
    groups: dict[str, Group] = {}
    tied: set[str] = set()
    passed = _passed(units, pattern)
    for i, group in enumerate(units.groups):
        names = {name for name, _ in group.silencers} & known
        tied |= names
        if names and names <= set(scored) and (pattern.width or not group.counted) and i not in passed:
            groups[places_of(group)] = group
    alone = [name for name in scored if name not in tied]
    inner = [name for name in alone if OUTPUT not in (units.whole.get((name, d)) for d in (0, 1))]
    return Ranked(groups, inner if inner or groups else alone, scored)


def _passed(units: Units, pattern: Channel) -> set[int]:
    """Numbers of the groups that are not chosen from, since their units are parts of others, or have parts."""
    nested = [
        (whole, part)
        for part, inner in enumerate(units.groups)
        for whole, outer in enumerate(units.groups)
        if inner.is_part_of(outer)
    ]
    queries = pattern.heads == "queries"
    if queries and all(group.of is None for group in units.groups):
        raise InputError(
            "heads='queries' would do nothing: no query heads of this model share keys and values. Leave it out."
        )
    return {whole if queries else part for whole, part in nested}


def choose(
    model: Module, scores: Mapping[str, Tensor], found: Ranked, pattern: Channel, budget: Budget
) -> Mask:
    """The mask of the units that live, and of what makes or acts on them alone.

    A unit's score is that of all weights that fall with it: its filters', those that read it, and a scale between them.
    The first and the last layer keep a tenth of their channels.

    Args:
        model: left unchanged.
        scores: of the weights in scope, and of others that may read what is chosen.
        found: what is chosen from.
        pattern: how the scores of a unit are pooled.
        budget: how much of each group lives.
    """
    reduce = pattern.reduce or "l2"
    groups = {name: _slots(group, scores, reduce) for name, group in found.groups.items()}
    found = replace(found, groups=groups)
    pooled = {name: _pooled(group, scores, reduce) for name, group in found.groups.items()}
    shapes = {name: scores[_scored(group, scores)].shape for name, group in found.groups.items()}
    for name in found.alone:
        pooled[name] = pattern.group(name, scores[name])
        shapes[name] = scores[name].shape
    if isinstance(budget, ERK):
        shares = budget.densities(shapes) or {}
        alive: dict[str, Tensor] = {}
        for name, values in pooled.items():
            alive |= select({name: values}, Unstructured(), Uniform(1 - shares[name])).keep
    else:
        alive = dict(select(pooled, Unstructured(), budget).keep)
    for name in _ends(model, found):
        alive[name] = _floored(name, pooled[name], alive[name])
    return _mask(model, scores, found, alive, pattern)


def _scored(group: Group, scores: Mapping[str, Tensor]) -> str:
    return next(name for name, _ in group.makers if name in scores)


def _slots(group: Group, scores: Mapping[str, Tensor], reduce: Reduce) -> Group:
    """Of units that must go evenly, those that are equally good in their larger units as one; others as they are."""
    if group.of is None:
        return group
    best = _pooled(group, scores, reduce).sort(descending=True, stable=True).indices
    slots = group.rows(best).T
    places = {place: at[slots].flatten(1).sort(dim=1).values for place, at in group.places.items()}
    return replace(group, places=places, of=torch.zeros(len(slots), dtype=torch.int64))


def _pooled(group: Group, scores: Mapping[str, Tensor], reduce: Reduce) -> Tensor:
    """One score a unit, float64 [units]."""
    total = torch.zeros(len(group), dtype=torch.float64)
    entries = 0
    for (name, dim), at in group.places.items():
        if name not in scores:
            continue
        values = scores[name].detach().double().cpu().movedim(dim, 0)
        values = values.reshape(len(values), -1)
        rows = (values.square() if reduce == "l2" else values).sum(1)
        total += rows[at].sum(1)
        entries += values.shape[1] * at.shape[1]
    if reduce == "sum":
        return total
    return total.sqrt() if reduce == "l2" else total / entries


def _ends(model: Module, found: Ranked) -> set[str]:
    """Groups that the first matrix of the model makes, or its last one reads."""
    every = [w for w in matrices(model)]
    if not every:
        return set()
    first, last = every[0], every[-1]
    read = 1 - (out_dim(last.layer) or 0)
    return {
        name
        for name, group in found.groups.items()
        if (first.name, out_dim(first.layer) or 0) in group.makers or (last.name, read) in group.reads
    }


def _floored(name: str, values: Tensor, alive: Tensor) -> Tensor:
    least = max(1 if len(values) < 8 else 2, ceil(FLOOR * len(values)))  # of two heads one is enough
    if int(alive.sum()) >= least:
        return alive
    kept = torch.zeros_like(alive)
    kept[values.sort(descending=True, stable=True).indices[:least]] = True
    warnings.warn(
        f"{name.removesuffix('.weight')} keeps {least} of its {len(values)} channels, not {int(alive.sum())}: the "
        "first and the last layer keep a tenth.",
        NarrowWarning, stacklevel=4,
    )  # fmt: skip
    return kept


def _mask(
    model: Module,
    scores: Mapping[str, Tensor],
    found: Ranked,
    alive: Mapping[str, Tensor],
    pattern: Channel,
) -> Mask:
    parameters = dict(model.named_parameters())
    keep: dict[str, Tensor] = {}
    for name in found.alone:
        keep[name] = pattern.spread(alive[name], scores[name])
    for name, group in found.groups.items():
        for (tensor, dim), at in group.silencers.items():
            parameter = parameters.get(tensor)
            if parameter is None or not parameter.requires_grad:
                continue
            here = keep.setdefault(tensor, torch.ones(parameter.shape, dtype=torch.bool))
            here.index_fill_(dim, at[~alive[name].cpu()].reshape(-1), False)
    for name in found.scored:
        keep.setdefault(name, torch.ones(scores[name].shape, dtype=torch.bool))
    return Mask(keep)
