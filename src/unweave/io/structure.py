"""The structure record: which rows and columns a shrunk model kept, and how to give a fresh model that shape.

A record is plain JSON, `{"format": 2, "tensors": {tensor: {dimension: {"of": n, "kept": [...]}}}, "biases": [layer,
...]}`: of n positions along a dimension the tensor kept those at these indices, and the layers under "biases" gained
a bias. Where a layer keeps a number of its own that must say what is left, such as how many queries share keys and
values, or what a norm adds to a mean, it is told: `"numbers": {"layer.attribute": {"of": n, "kept": m}}`. What was done
to mixtures of experts is told beside it ("experts", "condensed", "trimmed"; see `models.moe.record_of`). Loading needs
neither the pruned model's class nor any code from the file. Records of format 1, which name layers with the sides "in"
and "out", are read too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import Embedding, LayerNorm, Linear, Module, Parameter, PReLU, RMSNorm

from ..errors import InputError
from ..masks.layers import CONVS, RUNNING_NORMS, TRANSPOSED, is_conv1d
from ..models.moe import rebuilt_

Structure = Mapping[str, Any]
Cuts = dict[tuple[str, int], Tensor]
"""(tensor, dimension) -> the indices that stay, int64, rising."""
Numbers = dict[str, tuple[float, float]]
"""Layer and its attribute -> the number it was, and is: a whole one, or a norm's guard against zero."""


def restructure_(model: Module, structure: Structure) -> Module:
    """Cut a full-sized model down to a recorded structure, in place, by slicing.

    Parameters, buffers and the layers' size attributes are cut; values that are kept keep their bits, and what was one
    tensor in two places stays one.

    Args:
        model: as it was before shrinking; freshly made or trained.
        structure: as `shrink` returned it, or read back from JSON.

    Raises:
        InputError: if the record is not one, or was made for a model of other layers or sizes. The model is
            untouched.
    """
    cuts, biases = _checked(model, structure)
    numbers = _numbers(model, structure)
    rebuilt_(model, structure)
    cut_(model, cuts)
    renumber_(model, numbers)
    for name in biases:
        layer = model.get_submodule(name)
        weight: Any = layer.weight
        layer.register_parameter("bias", Parameter(weight.new_zeros(len(weight)), weight.requires_grad))
    return model


def cut_(model: Module, cuts: Cuts) -> None:
    """Slice tensors of a model in place, wherever it holds them, and tell its layers their new sizes.

    Args:
        model: whose parameters and buffers.
        cuts: what stays of each dimension that is cut.
    """
    sliced: dict[int, Tensor] = {}
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for (name, dim), kept in cuts.items():
        whole = named[name]
        part = sliced.get(id(whole), whole.detach())
        sliced[id(whole)] = part.index_select(dim, kept.to(part.device))
    held = {
        id(whole): Parameter(sliced[id(whole)], whole.requires_grad)
        if isinstance(whole, Parameter)
        else sliced[id(whole)]
        for whole in named.values()
        if id(whole) in sliced
    }
    for module in model.modules():
        own = [
            (name, held[id(t)])
            for name, t in (*module.named_parameters(recurse=False, remove_duplicate=False),
                            *module.named_buffers(recurse=False, remove_duplicate=False))
            if id(t) in held
        ]  # fmt: skip
        for name, tensor in own:
            setattr(module, name, tensor)
        if own:
            _resize_(module)


def renumber_(model: Module, numbers: Numbers) -> None:
    """Set numbers that layers keep as attributes, in place."""
    for name, (_, kept) in numbers.items():
        owner, _, own = name.rpartition(".")
        setattr(model.get_submodule(owner), own, kept)


def has_shape(model: Module, structure: Structure) -> bool:
    """Whether a model's tensors have the sizes that a record of format 2 leaves them: it was cut by that record."""
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    if structure.get("format") != 2 or not structure.get("tensors"):
        return False
    return all(
        name in named and named[name].shape[int(dim)] == len(cut["kept"])
        for name, dims in structure["tensors"].items()
        for dim, cut in dims.items()
    )


def record_of(
    sizes: Mapping[tuple[str, int], int], cuts: Cuts, biases: list[str], numbers: Numbers
) -> dict[str, Any]:
    """The record of these cuts.

    Args:
        sizes: (tensor, dimension) -> how many positions it had.
        cuts: what stays of each.
        biases: layers that gained a bias.
        numbers: of layers that were changed.
    """
    tensors: dict[str, dict[str, Any]] = {}
    for (name, dim), kept in cuts.items():
        tensors.setdefault(name, {})[str(dim)] = {"of": sizes[name, dim], "kept": kept.tolist()}
    told = {name: {"of": of, "kept": kept} for name, (of, kept) in numbers.items()}
    return {"format": 2, "tensors": tensors, "biases": biases, **({"numbers": told} if told else {})}


def composed(first: Structure, second: Structure) -> Structure:
    """The record of two cuts, of which the second was made of what the first left.

    Args:
        first: of format 2, without mixtures of experts.
        second: likewise.
    """
    biased = {f"{name}.bias" for name in first["biases"]}  # made anew, at the length that is left
    tensors = {name: dict(dims) for name, dims in first["tensors"].items()}
    for name, dims in second["tensors"].items():
        if name in biased:
            continue
        for dim, cut in dims.items():
            before = tensors.setdefault(name, {}).get(dim)
            kept = cut["kept"] if before is None else [before["kept"][i] for i in cut["kept"]]
            tensors[name][dim] = {"of": (before or cut)["of"], "kept": kept}
    numbers = dict(first.get("numbers", {}))
    for name, told in second.get("numbers", {}).items():
        numbers[name] = {"of": numbers.get(name, told)["of"], "kept": told["kept"]}
    record = {"format": 2, "tensors": tensors, "biases": [*first["biases"], *second["biases"]]}
    return record | ({"numbers": numbers} if numbers else {})


def composes(structure: Structure) -> bool:
    """Whether a record is one that `composed` takes."""
    return structure.get("format") == 2 and structure.keys() <= {"format", "tensors", "biases", "numbers"}


def _checked(model: Module, structure: Structure) -> tuple[Cuts, list[str]]:
    key = (
        {1: "layers", 2: "tensors"}.get(structure.get("format", 0))
        if isinstance(structure, Mapping)
        else None
    )
    if key is None or not isinstance(structure.get(key), Mapping):
        raise InputError("this is not a structure record of format 1 or 2, as `shrink` makes it.")
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    cuts: Cuts = {}
    flat = _of_layers(model, structure) if key == "layers" else _of_tensors(structure, named)
    for label, name, dim, cut in flat:
        size, kept = named[name].shape[dim], cut["kept"]
        if cut["of"] != size or not kept or not all(isinstance(i, int) for i in kept):
            raise InputError(
                f"the structure of {label} keeps {len(kept)} of {cut['of']}; the model's has {size}. It was "
                "recorded for another model."
            )
        if sorted(set(kept)) != list(kept) or kept[0] < 0 or kept[-1] >= size:
            raise InputError(
                f"the structure of {label} does not list indices from 0 to {size - 1} in rising order."
            )
        cuts[name, dim] = torch.tensor(kept)
    modules = dict(model.named_modules())
    for name in structure.get("biases", []):
        if getattr(modules.get(name), "bias", 0) is not None:
            raise InputError(
                f"the structure adds a bias to {name!r}, which the model lacks or which has one."
            )
    return cuts, list(structure.get("biases", []))


def _numbers(model: Module, structure: Structure) -> Numbers:
    modules = dict(model.named_modules())
    numbers: Numbers = {}
    for name, told in structure.get("numbers", {}).items():
        owner, _, own = name.rpartition(".")
        of, kept = told["of"], told["kept"]
        now = vars(modules[owner]).get(own) if owner in modules else None
        if type(now) not in (int, float) or now != of or type(kept) is not type(now) or not _fits(of, kept):
            raise InputError(
                f"the structure changes {name} from {of} to {kept}; the model has no such number. It was recorded for "
                "another model."
            )
        numbers[name] = (of, kept)
    return numbers


def _fits(of: float, kept: float) -> bool:
    """Whether a count fell, or a guard against zero stayed one."""
    return 0 < kept < of if isinstance(of, int) else 0 < kept < 1


def _of_tensors(
    structure: Structure, named: Mapping[str, Tensor]
) -> Iterator[tuple[str, str, int, Mapping[str, Any]]]:
    for name, dims in structure["tensors"].items():
        if name not in named:
            raise InputError(f"the structure names a tensor {name!r}, which the model lacks.")
        for dim, cut in dims.items():
            if not (str(dim).isdigit() and int(dim) < named[name].ndim):
                raise InputError(f"the structure of {name} names a dimension {dim!r}, which it lacks.")
            yield f"{name}, dimension {dim}", name, int(dim), cut


def _of_layers(model: Module, structure: Structure) -> Iterator[tuple[str, str, int, Mapping[str, Any]]]:
    """A record of format 1 as one of tensors."""
    modules = dict(model.named_modules())
    for name, record in structure["layers"].items():
        layer = modules.get(name)
        if not isinstance(layer, (Linear, *CONVS, *RUNNING_NORMS)):
            raise InputError(
                f"the structure names a layer {name!r}, which the model lacks or which is of no known kind."
            )
        for side, cut in record.items():
            if side not in ("in", "out"):
                raise InputError(f'the structure of {name} has a side {side!r}; there are "in" and "out".')
            of = ("weight",) if side == "in" else ("weight", "bias", "running_mean", "running_var")
            for own in of:
                if getattr(layer, own, None) is not None:
                    yield f"{name} ({side})", f"{name}.{own}" if name else own, int(side == "in"), cut


def _resize_(layer: Any) -> None:
    """Tell a layer the sizes of its tensors."""
    weight: Any = getattr(layer, "weight", None)
    if isinstance(layer, Linear):
        layer.out_features, layer.in_features = weight.shape
    elif isinstance(layer, CONVS):
        if layer.groups > 1 and layer.groups == layer.in_channels:  # one filter a channel
            layer.groups = len(weight)
        sides = (weight.shape[0], weight.shape[1] * layer.groups)
        layer.out_channels, layer.in_channels = sides[::-1] if isinstance(layer, TRANSPOSED) else sides
    elif isinstance(layer, RUNNING_NORMS):
        like: Any = layer.running_mean if weight is None else weight
        layer.num_features = len(like)
    elif isinstance(layer, LayerNorm | RMSNorm):
        layer.normalized_shape = tuple(weight.shape)
    elif isinstance(layer, Embedding):
        layer.num_embeddings, layer.embedding_dim = weight.shape
    elif isinstance(layer, PReLU):
        layer.num_parameters = len(weight)
    elif is_conv1d(layer):
        layer.nx, layer.nf = weight.shape
