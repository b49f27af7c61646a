"""Dead units removed for real: smaller tensors, the same outputs.

Which rows and columns fall together is seen by following each unit through one run of the model (`find_units`); what
may go is decided here, from exact zeros alone. Dependency graphs for the same end: Fang, Ma, Song, Mi, Wang, "DepGraph:
Towards Any Structural Pruning", CVPR 2023, arXiv 2301.12900.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import Module

from ..errors import InputError
from ..masks.layers import copied
from ..masks.mask import Mask
from ..models.units import Units, find_units
from ..settings import checked
from .cutting.dead import dead_filters, dead_units, places_of
from .cutting.smaller import Cut, Run, cut, is_centred

COUNTED = (
    "a layer normalisation counts its channels, so that without them the outputs change; width=True cuts them all the "
    "same"
)


@dataclass(frozen=True)
class Shrunk:
    """A smaller model.

    Attributes:
        model: without the removed units. One of transformers whose configuration can say its shape has that
            configuration, and is an ordinary model of its class.
        structure: the record with which `unweave.io.structure.restructure_` gives a fresh model this shape;
            JSON-able.
        left: layer -> why its dead filters could not be removed, or not all of them.
        apart: largest difference of the outputs from those before, relative to the largest; more than rounding only
            with `width`, or constants dropped.
    """

    model: Module
    structure: dict[str, Any] = field(repr=False)
    left: dict[str, str]
    apart: float = 0.0


@checked
def shrink(
    model: Module,
    example_inputs: Any,
    mask: Mask | None = None,
    *,
    constants: Literal["fold", "drop"] = "fold",
    width: bool = False,
    respell: bool = True,
) -> Shrunk:
    """Remove every dead unit that nothing else needs, and whatever read it.

    Units are channels, heads with their keys and values (whole groups where queries share them), inner units of
    feed-forwards and experts, and the channels of a residual stream, dead only if every layer that adds to them is. A
    filter is dead when all its weights are zero; its channel is then constant: zero if bias and batch normalisation are
    dead too (see `silence`), else what they emit. A constant is folded into the bias of the layers that read it, where
    that is exact: not before a convolution with zero padding. Root-mean-square norms are rescaled for the channels that
    they no longer count. Outputs before and after are compared on the example inputs, in eval mode.

    Args:
        model: left unchanged.
        example_inputs: what the model is called with: a tensor [n, ...], a dictionary of keyword arguments, or a
            function that calls it and returns what it answers.
        mask: applied first; None relies on the model's own zeros.
        constants: "fold" as above; "drop" removes constants that cannot be folded, which changes the outputs: then
            no comparison is made, and the model should be trained on.
        width: whether channels go too that a layer normalisation counts: their zeros were in its mean, so the outputs
            change (see `Shrunk.apart`) and the model should be trained on. Which heads and units stay is made sure of.
        respell: whether a configuration of transformers is searched that says the smaller shape. Without, which takes a
            fraction of the time, the model keeps its own, and its structure says the rest.

    Raises:
        InputError: if `constants` is neither, there is nothing dead, or nothing could be removed; with the reasons.
    """
    whole = copied(model) if mask is None else mask.apply_(copied(model))
    modes = {name: module.training for name, module in whole.named_modules()}
    whole.eval()

    run = _calling(example_inputs)
    try:
        units, why = find_units(whole, run), ""
    except Exception as error:  # whatever the model's own code raises
        units, why = Units([], {}), f"the model could not be run ({type(error).__name__}: {error})"
    dead = dead_units(whole, units, width=width)
    filters = {name: (dim, rows) for name, dim, rows in dead_filters(whole)}
    if not filters and not any(bool(d.any()) for d in dead):
        raise InputError(
            "shrink: no filter is dead: nothing to remove. Prune with the pattern Channel first."
        )
    parts = {i: d for i, d in enumerate(dead) if bool(d.any()) and not bool(d.all())}
    smaller, refused = _smaller(whole, units, parts, run, constants, width, respell)
    cut_away = {i: d for i, d in parts.items() if i not in refused}
    left = _left(filters, units, dead, cut_away, refused, why)
    if smaller is None:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left.items())
        raise InputError(f"shrink could remove no channel. {reasons}.")
    for name, module in smaller.model.named_modules():
        module.training = modes.get(name, False)
    return Shrunk(smaller.model, smaller.structure, left, smaller.apart)


def _calling(example_inputs: Any) -> Run:
    """What calls a model with these inputs."""

    @torch.no_grad()
    def run(m: Module) -> Any:
        if callable(example_inputs):
            return example_inputs(m)
        return m(**example_inputs) if isinstance(example_inputs, dict) else m(example_inputs)

    return run


def _smaller(
    whole: Module,
    units: Units,
    parts: dict[int, Tensor],
    run: Run,
    constants: str,
    width: bool,
    respell: bool,
) -> tuple[Cut | None, dict[int, str]]:
    """The model without all parts; where that fails, without those that can go, the others with their reasons."""
    centred = {i for i in parts if is_centred(whole, units.groups[i])}
    refused = {} if width else dict.fromkeys(centred, COUNTED)
    parts = {i: dead for i, dead in parts.items() if i not in refused}
    if not parts:
        return None, refused
    once = cut(whole, units, parts, run, constants, exact=not centred & parts.keys(), respell=respell)
    if not isinstance(once, str):
        return once, refused
    taken: dict[int, Tensor] = {}

    def take(some: list[int]) -> None:
        more = {i: parts[i] for i in some}
        exact = not centred & (taken | more).keys()
        tried = cut(whole, units, taken | more, run, constants, exact=exact, respell=False) if some else ""
        if not isinstance(tried, str):
            taken.update(more)
        elif len(some) == 1:
            refused[some[0]] = tried
        elif some:
            take(some[: len(some) // 2])
            take(some[len(some) // 2 :])

    take([i for i in parts if i not in centred])
    take([i for i in parts if i in centred])
    exact = not centred & taken.keys()
    found = cut(whole, units, taken, run, constants, exact=exact, respell=respell) if taken else ""
    return (None if isinstance(found, str) else found), refused


def _left(
    filters: dict[str, tuple[int, Tensor]],
    units: Units,
    dead: list[Tensor],
    cut_away: dict[int, Tensor],
    refused: dict[int, str],
    why: str,
) -> dict[str, str]:
    """Layer -> why its dead filters stay, or not all of them go."""
    left: dict[str, str] = {}
    for name, (dim, rows) in filters.items():
        place = (f"{name}.weight" if name else "weight", dim)
        stays, told, shared = rows.clone(), why, False
        for i, group in enumerate(units.groups):
            if place not in group.places:
                continue
            if i in cut_away:
                stays[group.places[place][cut_away[i]].reshape(-1)] = False
            elif group.of is not None:
                shared = True
            elif bool(dead[i].all()):
                told = "it has no living filter left"
            else:
                told = refused.get(i, told)
        if not bool(stays.any()):
            continue
        if told:
            left[name] = told
        elif shared:
            left[name] = (
                f"{int(stays.sum())} of its dead channels are of heads that share keys and values: they go where "
                "nothing reads them, as many of each key-value head"
            )
        elif place in units.whole:
            left[name] = f"its channels stay: {units.whole[place]}"
        else:
            left[name] = f"{int(stays.sum())} of its dead channels are alive in a layer they are tied to"
    return left | {
        places_of(units.groups[i]): reason
        for i, reason in refused.items()
        if not any((f"{name}.weight", dim) in units.groups[i].places for name, (dim, _) in filters.items())
    }
