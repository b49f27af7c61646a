"""Dead units: those that no living weight makes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import Embedding, Linear, Module

from ...masks.layers import CONVS, TRANSPOSED, is_conv1d
from ...models.units import Group, Units
from ..prosparse.feed_forward import FeedForward, feed_forward


def out_dim(layer: Module) -> int | None:
    """The dimension of a layer's weight along which its outputs lie; None for a layer of no known kind."""
    if isinstance(layer, (Linear, *CONVS)):
        return int(isinstance(layer, TRANSPOSED))
    return 1 if is_conv1d(layer) else None


def dead_filters(model: Module) -> Iterator[tuple[str, int, Tensor]]:
    """(layer, dimension of its weight, which of its outputs have no living weight) where there are such."""
    shared = {id(p) for m in model.modules() if isinstance(m, Embedding) for p in m.parameters()}
    for name, layer in model.named_modules():
        dim = out_dim(layer)
        weight: Any = getattr(layer, "weight", None)
        if dim is not None and isinstance(weight, Tensor) and id(weight) not in shared:
            dead = (weight == 0).movedim(dim, 0).flatten(1).all(1)
            if bool(dead.any()):
                yield name, dim, dead


def dead_units(model: Module, units: Units, *, width: bool = False) -> list[Tensor]:
    """For each group which of its units are dead, bool [units]: every matrix that makes them is zero there.

    A unit of a gated feed-forward down(act(gate(x)) * up(x)) is dead if its row of `up` is, or its row of `gate` where
    act(0) = 0. One that shares with others what makes it, as query heads share values, is dead if nothing reads it; as
    many are counted of each larger unit that is not dead itself.

    Args:
        model: in eval mode.
        units: of the model.
        width: whether frozen tables, such as of positions, may add to dead channels that a normalisation counts.
    """
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    silent = dict(_silent_gates(model))
    found: list[Tensor] = []
    for group in units.groups:
        dead = torch.ones(len(group), dtype=torch.bool)
        if group.of is not None:
            for (name, dim), at in group.places.items():
                if (name, dim) in group.reads:
                    dead &= _zero(named[name], dim)[at].all(1)
            whole = [d for g, d in zip(units.groups, found, strict=False) if group.is_part_of(g)]
            found.append(_even(group, dead, whole[0] if whole else None))
            continue
        follows = width and group.counted
        matrices = [
            (place, at)
            for place, at in group.makers.items()
            if named[place[0]].ndim > 1 and (named[place[0]].requires_grad or not follows)
        ]
        for (name, dim), at in matrices:
            dead &= _zero(named[name], dim)[at].all(1)
        if not matrices:
            dead.zero_()
        for place, at in group.makers.items():
            if place in silent:
                dead |= silent[place][at].all(1)
        found.append(dead)
    return found


def _zero(tensor: Tensor, dim: int) -> Tensor:
    """Which positions along a dimension are zero, bool [n]."""
    zero: Tensor = (tensor == 0).movedim(dim, 0).flatten(1).all(1).cpu()
    return zero


def _even(group: Group, dead: Tensor, whole: Tensor | None) -> Tensor:
    """As many of the dead units of each larger one that stays.

    Args:
        group: whose units are parts.
        dead: bool [units].
        whole: which of the larger units are dead themselves; None if they are in no group.
    """
    rows = group.rows(torch.arange(len(dead)))
    rows = rows if whole is None or bool(whole.all()) else rows[~whole]
    n = int(dead[rows].sum(1).min())
    first = dead[rows] & (dead[rows].cumsum(1) <= n)
    return torch.zeros_like(dead).index_put_((rows[first],), torch.tensor(True))


def places_of(group: Group) -> str:
    """The layer by which a group is told."""
    return next((name for name, _ in group.makers if not name.endswith(".bias")), next(iter(group.places))[0])


def _silent_gates(model: Module) -> Iterator[tuple[tuple[str, int], Tensor]]:
    names = {id(module): name for name, module in model.named_modules()}
    for block in model.modules():
        found = feed_forward(block)
        if found is not None:
            name = names[id(found.wide[0])]
            yield (f"{name}.weight", 0), _silent(found)


@torch.no_grad()
def _silent(found: FeedForward) -> Tensor:
    rows = []
    for layer in found.wide:
        dead = (layer.weight == 0).all(1)
        rows.append((dead if layer.bias is None else dead & (layer.bias == 0)).cpu())
    zeros = found.down.weight.new_zeros(1, found.down.in_features)
    try:
        still = torch.equal(found.activation(zeros), zeros)
    except Exception:  # no function of one tensor
        return torch.zeros_like(rows[0])
    # which of the two is the gate need not be known: without act(0) = 0 both must be dead
    return rows[0] | rows[1] if still else rows[0] & rows[1]
