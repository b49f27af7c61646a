"""The structure record: which channels a shrunk model kept, and how to give a fresh model that shape.

A record is plain JSON, `{"format": 1, "layers": {layer: {"out": {"of": n, "kept": [...]}, "in": {...}}},
"biases": [layer, ...]}`: of n outputs (inputs) the layer kept those at these indices, and the layers under
"biases" gained a bias. What was done to mixtures of experts is told beside it ("experts", "condensed", "trimmed"; see
`models.moe.record_of`). Loading needs neither the pruned model's class, nor torch-pruning, nor any code from
the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import Linear, Module, Parameter

from ..errors import InputError
from ..masks.layers import CONVS, RUNNING_NORMS
from ..models.moe import rebuilt_

Structure = Mapping[str, Any]


def restructure_(model: Module, structure: Structure) -> Module:
    """Cut a full-sized model down to a recorded structure, in place, by slicing.

    Weights, biases, running statistics and the layers' size attributes are cut; values that are kept keep
    their bits.

    Args:
        model: as it was before shrinking; freshly made or trained.
        structure: as `shrink` returned it, or read back from JSON.

    Raises:
        InputError: if the record is not one, or was made for a model of other layers or sizes. The model is
            untouched.
    """
    plans = list(_checked(model, structure))
    rebuilt_(model, structure)
    for layer, sides in plans:
        _cut_(layer, sides)
    for name in structure.get("biases", []):
        layer = model.get_submodule(name)
        weight: Any = layer.weight
        layer.register_parameter("bias", Parameter(weight.new_zeros(len(weight)), weight.requires_grad))
    return model


def _checked(model: Module, structure: Structure) -> list[tuple[Module, dict[str, Tensor]]]:
    if (
        not isinstance(structure, Mapping)
        or structure.get("format") != 1
        or not isinstance(structure.get("layers"), Mapping)
    ):
        raise InputError("this is not a structure record of format 1, as `shrink` makes it.")
    modules = dict(model.named_modules())
    plans: list[tuple[Module, dict[str, Tensor]]] = []
    for name, record in structure["layers"].items():
        layer = modules.get(name)
        if not isinstance(layer, (Linear, *CONVS, *RUNNING_NORMS)):
            raise InputError(
                f"the structure names a layer {name!r}, which the model lacks or which is of no known kind."
            )
        sides = {}
        for side, cut in record.items():
            if side not in ("in", "out"):
                raise InputError(f'the structure of {name} has a side {side!r}; there are "in" and "out".')
            size, kept = size_of(layer, side), cut["kept"]
            if cut["of"] != size or not kept or not all(isinstance(i, int) for i in kept):
                raise InputError(
                    f"the structure of {name} keeps {len(kept)} of {cut['of']} ({side}); the model's "
                    f"layer has {size}. "
                    "It was recorded for another model."
                )
            if sorted(set(kept)) != list(kept) or kept[0] < 0 or kept[-1] >= size:
                raise InputError(
                    f"the structure of {name} does not list indices from 0 to {size - 1} in rising order."
                )
            sides[side] = torch.tensor(kept)
        plans.append((layer, sides))
    for name in structure.get("biases", []):
        if getattr(modules.get(name), "bias", 0) is not None:
            raise InputError(
                f"the structure adds a bias to {name!r}, which the model lacks or which has one."
            )
    return plans


def size_of(layer: Module, side: str) -> int:
    """How many channels a linear layer, a convolution or a normalisation has on a side, "in" or "out"."""
    if isinstance(layer, RUNNING_NORMS):
        return layer.num_features
    if isinstance(layer, Linear):
        return layer.out_features if side == "out" else layer.in_features
    assert isinstance(layer, CONVS)
    return layer.out_channels if side == "out" else layer.in_channels


def _cut_(layer: Module, sides: Mapping[str, Tensor]) -> None:
    outs, ins = sides.get("out"), sides.get("in")
    if isinstance(layer, RUNNING_NORMS):
        if outs is not None:
            for name in ("weight", "bias", "running_mean", "running_var"):
                _slice_(layer, name, 0, outs)
            layer.num_features = len(outs)
        return
    if outs is not None:
        _slice_(layer, "weight", 0, outs)
        _slice_(layer, "bias", 0, outs)
    if ins is not None:
        _slice_(layer, "weight", 1, ins)
    weight: Any = layer.weight
    if isinstance(layer, Linear):
        layer.out_features, layer.in_features = weight.shape
    else:
        assert isinstance(layer, CONVS)
        layer.out_channels, layer.in_channels = weight.shape[:2]


def _slice_(layer: Module, name: str, dim: int, kept: Tensor) -> None:
    tensor = getattr(layer, name, None)
    if tensor is None:
        return
    cut = tensor.detach().index_select(dim, kept.to(tensor.device))
    setattr(layer, name, Parameter(cut, tensor.requires_grad) if isinstance(tensor, Parameter) else cut)
