"""Dead filters made truly silent: a dead filter still speaks through its bias and its batch normalisation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from ..tasks import evaluating
from ..types import Data
from .layers import RUNNING_NORMS, copied
from .mask import Mask


def silence(model: Module, mask: Mask, data: Data[Any]) -> Mask:
    """Extend a mask by the bias of each dead filter, and by scale and shift of the norm that reads it.

    Zeroing a filter's weights leaves its bias and the shift of a batch normalisation behind it, so that the
    channel goes on emitting a constant. With both dead too the channel is zero, and `shrink` can remove it
    without a trace.

    Args:
        model: left unchanged.
        mask: names weights of layers; a row [i, ...] without a living entry is a dead filter.
        data: one batch of it is shown to the model, to see which batch normalisation reads which layer's
            output.
    """
    keep = dict(mask.keep)
    copy = copied(model)
    names = {id(module): name for name, module in copy.named_modules()}
    produced: dict[int, str] = {}
    outputs: list[Tensor] = []  # held, so that no two have one address
    reads: dict[str, set[str]] = {}

    def produce(module: Module, args: Any, out: Tensor) -> None:
        produced[id(out)] = names[id(module)]
        outputs.append(out)

    def read(module: Module, args: tuple[Tensor, ...]) -> None:
        reads.setdefault(names[id(module)], set()).add(produced.get(id(args[0]), ""))

    for name, module in copy.named_modules():
        if _parameter(name, "weight") in mask.keep:
            module.register_forward_hook(produce)
        elif isinstance(module, RUNNING_NORMS) and module.affine:
            module.register_forward_pre_hook(read)
    with evaluating(copy):
        data.task.outputs(copy, next(iter(data.batches())))
    parameters = dict(copy.named_parameters())
    norms = {
        producer: norm for norm, found in reads.items() if len(found) == 1 for producer in found if producer
    }
    for weight, alive in mask.keep.items():
        layer = weight.removesuffix("weight").removesuffix(".")
        rows = alive.flatten(1).any(1) if alive.ndim > 1 else alive
        if rows.all():
            continue
        targets = [_parameter(layer, "bias")]
        if layer in norms:
            targets += [_parameter(norms[layer], "weight"), _parameter(norms[layer], "bias")]
        for target in targets:
            parameter = parameters.get(target)
            if parameter is not None and parameter.requires_grad and parameter.shape == rows.shape:
                keep[target] = keep.get(target, torch.ones_like(rows)) & rows
    return Mask(keep)


def _parameter(module: str, name: str) -> str:
    return f"{module}.{name}" if module else name
