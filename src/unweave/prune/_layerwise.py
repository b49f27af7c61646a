"""Walk a trained model layer by layer, with what each layer reads from the layers already changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import Conv2d, Linear, Module, ModuleList, Parameter

from ..derivatives import spaced
from ..errors import InputError
from ..masks.scope import Scope
from ..progress import progress
from ..tasks import evaluating
from ..types import Data

Layer = tuple[str, Module, Parameter]
Visit = Callable[[str, Module, Parameter, Tensor], None]
"""(name, layer, weight, gram): gram [in, in] is the sum of x x^T over all inputs x of the layer."""


class _Stop(Exception):  # noqa: N818 - not an error: it ends a forward pass that has shown enough
    pass


def walk(who: str, model: Module, data: Data[Any], examples: int, scope: Scope, visit: Visit) -> None:
    """Show `visit` each layer in scope, in the order of the forward pass; it changes the layer's weight in place.

    In a model with a list of equal blocks (a transformer), just the layers in the blocks are visited (not embeddings
    or heads): the blocks' inputs are kept and passed on block by block, so that one block's layers are in use at a
    time. Layers of one block see the inputs they have before any of them is changed. Other models, and transformers
    whose head the scope names in `only`, are run once for each layer.

    Args:
        who: named in errors.
        model: changed in place by `visit`.
        data: calibration examples.
        examples: how many of them, evenly spaced.
        scope: which layers: Linear, and Conv2d without groups.
        visit: gets each layer once.

    Raises:
        EmptyDataError: if there is no example.
        InputError: if a layer is of another kind, or the model never calls it.
    """
    data.require_examples(who)
    chosen = spaced(data, examples)
    layers = scope.layers(model)
    for name, layer, _ in layers:
        if not isinstance(layer, (Linear, Conv2d)) or getattr(layer, "groups", 1) > 1:
            raise InputError(
                f"{who} takes Linear and ungrouped Conv2d layers; {name} is of another kind. Leave it out of the scope."
            )
    blocks = _blocks(model, layers)
    if blocks is not None and scope.only:
        inside = {id(m) for m in blocks.modules()}
        if any(id(layer) not in inside for _, layer, _ in layers):
            blocks = None
    with evaluating(model):
        if blocks is None:
            _one_by_one(who, model, chosen, layers, visit)
        else:
            _block_by_block(who, model, chosen, layers, blocks, visit)


def _one_by_one(who: str, model: Module, data: Data[Any], layers: list[Layer], visit: Visit) -> None:
    order = _call_order(who, model, data, layers)
    with progress(who, len(order)) as bar:
        for name, layer, weight in order:
            with _watching([(name, layer, weight)], last=True) as grams:
                for batch in data.batches():
                    try:
                        data.task.outputs(model, batch)
                    except _Stop:
                        continue
            visit(name, layer, weight, grams[name])
            bar.advance()


def _block_by_block(
    who: str, model: Module, data: Data[Any], layers: list[Layer], blocks: ModuleList, visit: Visit
) -> None:
    inputs: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def keep(_: Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # a cache of keys would grow with each time that the block is run
        forget = {key: None for key in kwargs if key.startswith("past_key")} | {"use_cache": False}
        inputs.append((args, {key: forget.get(key, value) for key, value in kwargs.items()}))
        raise _Stop

    hook = blocks[0].register_forward_pre_hook(keep, with_kwargs=True)
    try:
        for batch in data.batches():
            try:
                data.task.outputs(model, batch)
            except _Stop:
                continue
    finally:
        hook.remove()
    with progress(who, len(blocks)) as bar:
        for block in blocks:
            inside = {id(m) for m in block.modules()}
            mine = [entry for entry in layers if id(entry[1]) in inside]
            with _watching(mine) as grams:
                for args, kwargs in inputs:
                    block(*args, **kwargs)
            for name, layer, weight in mine:
                if name not in grams:
                    raise InputError(
                        f"{who}: the layer of {name} is never called. Leave it out of the scope."
                    )
                visit(name, layer, weight, grams.pop(name))
            for i, (args, kwargs) in enumerate(inputs):
                out = block(*args, **kwargs)
                hidden = out[0] if isinstance(out, tuple) else out
                if args:
                    inputs[i] = ((hidden, *args[1:]), kwargs)
                else:
                    inputs[i] = ((), {**kwargs, "hidden_states": hidden})
            bar.advance()


def _blocks(model: Module, layers: list[Layer]) -> ModuleList | None:
    """The list of equal blocks that holds most layers in scope, if it holds more than one of them each."""
    best: ModuleList | None = None
    most = 0
    for module in model.modules():
        if isinstance(module, ModuleList) and len(module) > 0 and len({type(m) for m in module}) == 1:
            inside = {id(m) for block in module for m in block.modules() if m is not block}
            held = sum(id(layer) in inside for _, layer, _ in layers)
            if held > most and held >= 2 * len(module):
                best, most = module, held
    return best


def _call_order(who: str, model: Module, data: Data[Any], layers: list[Layer]) -> list[Layer]:
    called: list[str] = []
    hooks = [
        layer.register_forward_pre_hook(lambda *_, name=name: called.append(name))
        for name, layer, _ in layers
    ]
    try:
        data.task.outputs(model, next(data.batches()))
    finally:
        for hook in hooks:
            hook.remove()
    seen = Counter(called)
    for name, _, _ in layers:
        if not seen[name]:
            raise InputError(
                f"{who}: the layer of {name} is never called by the model. Leave it out of the scope."
            )
    first = {name: called.index(name) for name in seen}
    return sorted(layers, key=lambda entry: first[entry[0]])


@contextmanager
def _watching(layers: list[Layer], last: bool = False) -> Iterator[dict[str, Tensor]]:
    grams: dict[str, Tensor] = {}

    def add(name: str, layer: Module, args: tuple[Tensor, ...]) -> None:
        rows = inputs_of(layer, args[0])
        if name not in grams:
            grams[name] = torch.zeros(rows.shape[1], rows.shape[1], dtype=rows.dtype, device=rows.device)
        grams[name].addmm_(rows.T, rows)
        if last:
            raise _Stop

    hooks = [
        layer.register_forward_pre_hook(lambda m, args, name=name: add(name, m, args))
        for name, layer, _ in layers
    ]
    try:
        yield grams
    finally:
        for hook in hooks:
            hook.remove()


def inputs_of(layer: Any, inputs: Tensor) -> Tensor:
    """Rows x that the layer multiplies with its weight seen as [out, in], float32 or wider, [n, in]."""
    wide = inputs.detach().to(torch.promote_types(inputs.dtype, torch.float32))
    if isinstance(layer, Linear):
        return wide.reshape(-1, wide.shape[-1])
    if layer.padding_mode != "zeros":
        wide = F.pad(wide, layer._reversed_padding_repeated_twice, mode=layer.padding_mode)
        padding: Any = 0
    else:
        padding = layer.padding
    if isinstance(padding, str):
        wide = F.pad(wide, layer._reversed_padding_repeated_twice) if padding == "same" else wide
        padding = 0
    columns = F.unfold(wide, layer.kernel_size, dilation=layer.dilation, padding=padding, stride=layer.stride)
    return columns.transpose(1, 2).reshape(-1, columns.shape[1])
