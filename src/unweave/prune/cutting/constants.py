"""What dead units still emit: constants, moved into the biases of the layers that read them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Linear, Module, Parameter

from ...masks.layers import CONVS, TRANSPOSED, is_conv1d
from ...models.units import Place


class FixedError(Exception):
    """Says why units cannot go."""


def fold_(
    model: Module, run: Callable[[Module], Any], gone: dict[Place, Tensor], constants: str
) -> list[str]:
    """Move what removed units emit into the bias of their readers; returns layers that gained one.

    Args:
        model: changed in place.
        run: calls it.
        gone: (tensor, dimension) -> indices that go, of places that sum over units.
        constants: "drop" lets go of those that cannot be folded.

    Raises:
        FixedError: if what they emit is no constant, or cannot be folded exactly.
    """
    modules = dict(model.named_modules())
    emitted: dict[str, Tensor] = {}
    hooks = []
    readers: dict[str, Module] = {}
    folded: dict[str, Tensor] = {}
    for (tensor, dim), at in gone.items():
        name, _, own = tensor.rpartition(".")
        layer = modules.get(name)
        if (
            own == "weight"
            and layer is not None
            and dim == _in_dim(layer)
            and id(layer) not in map(id, readers.values())
        ):
            read = _reading(layer, at)
            if not len(read):  # whatever they emit, nothing hears it
                continue
            readers[name], folded[name] = layer, read
            hooks.append(layer.register_forward_pre_hook(_looking(name, layer, read, emitted, constants)))
    try:
        run(model)
    finally:
        for hook in hooks:
            hook.remove()
    biases = []
    for name, value in emitted.items():
        if bool(value.any()) and _fold(name, readers[name], folded[name], value, constants):
            biases.append(name)
    return biases


def _reading(layer: Any, at: Tensor) -> Tensor:
    """Those inputs of a layer that a living weight reads."""
    weight = layer.weight.detach().movedim(_in_dim(layer) or 0, 0)
    alive = (weight.index_select(0, at.to(weight.device)) != 0).flatten(1).any(1)
    return at[alive.cpu()]


def _in_dim(layer: Any) -> int | None:
    if isinstance(layer, (Linear, *CONVS)) and getattr(layer, "groups", 1) == 1:
        return int(not isinstance(layer, TRANSPOSED))
    return 0 if is_conv1d(layer) else None


def _looking(name: str, layer: Module, at: Tensor, emitted: dict[str, Tensor], constants: str) -> Any:
    def look(_: Module, args: tuple[Tensor, ...]) -> None:
        dim = 1 if isinstance(layer, CONVS) else -1
        seen = args[0].detach().movedim(dim, 0).index_select(0, at.to(args[0].device)).flatten(1)
        bound = _rounding(args[0])
        if float((seen - seen[:, :1]).abs().max()) > bound:
            if constants == "drop":
                return
            raise FixedError(f"what its dead channels send to {name} is not constant")
        value = seen.double().mean(1).to(seen.dtype)
        emitted[name] = value.masked_fill(value.abs() <= bound, 0)

    return look


def _fold(name: str, layer: Any, at: Tensor, value: Tensor, constants: str) -> bool:
    """Whether the layer gained a bias."""
    padded = isinstance(layer, CONVS) and (
        isinstance(layer, TRANSPOSED)
        or (layer.padding_mode == "zeros" and layer.padding not in ("valid", (0,) * len(layer.kernel_size)))
    )
    if padded:
        if constants == "drop":
            return False
        raise FixedError(
            f"{int(value.count_nonzero())} dead channels still send a constant (a bias, or the shift of a batch "
            f"normalisation) into {name}, a convolution with zero padding, where it cannot be folded into a bias "
            'exactly. Extend the mask with `silence` before training on, or pass constants="drop"'
        )
    weight = layer.weight.detach().movedim(_in_dim(layer) or 0, 0)
    columns = (
        weight.index_select(0, at.to(weight.device)).flatten(2).sum(2)
        if weight.ndim > 2
        else weight[at.to(weight.device)]
    )
    shift = value.to(columns.dtype) @ columns
    if layer.bias is None:
        layer.register_parameter("bias", Parameter(shift, layer.weight.requires_grad))
        return True
    with torch.no_grad():
        layer.bias += shift
    return False


def _rounding(values: Tensor) -> float:
    """How far sums of such values may be apart for having been added up in another order."""
    return 64 * torch.finfo(values.dtype).eps * max(1.0, float(values.detach().abs().max()))
