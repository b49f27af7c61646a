"""Walk a trained model layer by layer, with what each layer reads from the layers already changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import Conv2d, Linear, Module, ModuleList, Parameter

from ..derivatives import spaced
from ..errors import InputError
from ..masks.layers import conv1d, is_conv1d
from ..masks.patterns import Pattern, fitting
from ..masks.scope import Scope
from ..progress import progress
from ..tasks import Padded, evaluating
from ..types import Batch, Data, Task
from ._blocks import Chain, Run, Stop
from ._experts import each, gathering, stacks_of

Layer = tuple[str, Module, Parameter]
Visit = Callable[[str, Module, Tensor, Tensor], None]
"""(name, layer, weight, gram): weight [out, in, ...] lies in the parameter's memory; gram [in, in] is the sum of x x^T
over all inputs x of the layer, padding left out."""

_UNUSED = "{}: the layer of {} is never called by the model. Leave it out (skip; --skip on the command line)."


def walk(
    who: str, model: Module, data: Data[Any], examples: int, scope: Scope, pattern: Pattern, visit: Visit
) -> None:
    """Show `visit` each layer in scope, in the order of the forward pass; it changes the layer's weight in place.

    In a model with a list of equal blocks (a transformer), just the layers in the blocks are visited (not embeddings
    or heads), a block at a time: its layers see the inputs they have before any of them is changed, and the model
    does not run the blocks before it again where it needs no more than the last one's answer. Other models, and
    transformers whose head the scope names in `only`, are run once for each layer.

    Args:
        who: named in errors.
        model: changed in place by `visit`.
        data: calibration examples.
        examples: how many of them, evenly spaced.
        scope: which layers: Linear, transformers' Conv1D, Conv2d without groups, and fused experts, each matrix of each
            expert with what that expert reads; others stay dense, as far as its `least` allows.
        pattern: layers that it does not fit stay dense in any case, with a warning.
        visit: gets each layer once.

    Raises:
        EmptyDataError: if there is no example.
        InputError: if too few of the weights can be visited, the model never calls a layer, or what one reads holds
            padding that cannot be told from text.
    """
    data.require_examples(who)
    stacks = stacks_of(who, model)
    kinds = (Linear, Conv2d, *conv1d(), *{type(stack.moe.experts) for stack in stacks.values()})
    layers = _ungrouped(who, scope.layers(model, kinds), scope.least)
    shapes = {n: stacks[n].shape if n in stacks else outputs_first(m, w).shape for n, m, w in layers}
    fit = fitting(pattern, shapes)
    layers = [entry for entry in layers if entry[0] in fit]
    blocks = _blocks_for(who, model, layers, scope)
    run = partial(data.task.outputs, model)
    with evaluating(model):
        batches = list(spaced(data, examples).batches())
        groups, once = [_inside([block], layers) for block in blocks], False
        if not blocks:
            groups, once = _in_call_order(who, run, batches[0], layers)
        chain = Chain(run, batches, blocks)
        with progress(who, len(groups)) as bar:
            for i, group in enumerate(groups):
                grams: dict[str, Tensor] = {}
                of_experts: dict[str, list[Tensor | None]] = {}
                fused = {n: stacks[n] for n, _, _ in group if n in stacks}
                plain = [entry for entry in group if entry[0] not in fused]
                for k, batch in enumerate(batches):
                    present = padding(data.task, batch)
                    with gathering(fused, present, of_experts), _watching(who, plain, present, grams, once):
                        chain.read(k, i)
                for name, layer, weight in group:
                    if name not in grams and name not in of_experts:
                        raise InputError(_UNUSED.format(who, name))
                    if name in fused:
                        for own, matrix, gram in each(name, fused[name], of_experts.pop(name)):
                            visit(own, layer, matrix, gram)
                    else:
                        visit(name, layer, outputs_first(layer, weight), grams.pop(name))
                chain.move(i)
                bar.advance()


def _blocks_for(who: str, model: Module, layers: list[Layer], scope: Scope) -> list[Module]:
    """The blocks to walk; none where there are none, or the scope names a layer outside them."""
    blocks = list(_blocks(model, layers) or ())
    outside = [entry for entry in layers if not _inside(blocks, [entry])] if blocks else []
    if scope.only and outside:
        return []
    _refuse_most_outside(who, layers, outside, scope.least)
    return blocks


def _ungrouped(who: str, layers: Sequence[Layer], least: float) -> list[Layer]:
    plain = [entry for entry in layers if getattr(entry[1], "groups", 1) == 1]
    share = sum(w.numel() for _, _, w in plain) / sum(w.numel() for _, _, w in layers)
    if not plain or share < least:
        odd = [name for name, layer, _ in layers if getattr(layer, "groups", 1) > 1]
        raise InputError(
            f"{who} takes Linear layers and Conv2d without groups; {', '.join(odd[:5])}"
            f"{' and more' if len(odd) > 5 else ''}, {100 * (1 - share):.0f} % of the weights, would stay dense. Leave "
            f"them out (skip; --skip on the command line), or accept it with least={int(100 * share) / 100} (--least)."
        )
    return plain


def _inside(modules: Sequence[Module], layers: list[Layer]) -> list[Layer]:
    parts = {id(part) for module in modules for part in module.modules()}
    return [entry for entry in layers if id(entry[1]) in parts]


def _refuse_most_outside(who: str, layers: Sequence[Layer], outside: Sequence[Layer], least: float) -> None:
    """Refuse a model of which more than a stem and a head lies outside its one list of blocks."""
    ends = [layers[0], layers[-1]]
    dense = [entry for entry in outside if not any(entry is end for end in ends)]
    left, total = (sum(w.numel() for _, _, w in part) for part in (dense, layers))
    if left > (1 - least) * total:
        raise InputError(
            f"{who} walks through one list of blocks; {', '.join(name for name, _, _ in dense[:5])}"
            f"{' and more' if len(dense) > 5 else ''}, {100 * left / total:.0f} % of the weights, lie outside it and "
            "would stay dense. Name what is meant (only; --only on the command line), or accept it with "
            f"least={int(100 - 100 * left / total) / 100} (--least)."
        )


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


def _in_call_order(who: str, run: Run, batch: Batch, layers: list[Layer]) -> tuple[list[list[Layer]], bool]:
    """The layers one by one in the order of their first calls; and whether none is called twice."""
    called: list[Module] = []
    hooks = [layer.register_forward_pre_hook(lambda m, _: called.append(m)) for _, layer, _ in layers]
    try:
        run(batch)
    finally:
        for hook in hooks:
            hook.remove()
    for name, layer, _ in layers:
        if layer not in called:
            raise InputError(_UNUSED.format(who, name))
    ordered = sorted(layers, key=lambda entry: called.index(entry[1]))
    return [[entry] for entry in ordered], len(called) == len(layers)


@contextmanager
def _watching(
    who: str, layers: list[Layer], present: Tensor | None, grams: dict[str, Tensor], once: bool
) -> Iterator[None]:
    """Add to the grams what these layers read in the block at positions that are `present`; `once`, then stop."""

    def add(name: str, layer: Module, args: tuple[Tensor, ...]) -> None:
        rows = inputs_of(layer, without_padding(who, name, layer, args[0], present))
        if name not in grams:
            grams[name] = torch.zeros(rows.shape[1], rows.shape[1], dtype=rows.dtype, device=rows.device)
        grams[name].addmm_(rows.T, rows)
        if once:
            raise Stop

    hooks = [
        layer.register_forward_pre_hook(lambda m, args, name=name: add(name, m, args))
        for name, layer, _ in layers
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def padding(task: Task, batch: Batch) -> Tensor | None:
    """Which positions of a batch hold text, bool [n, t]; None if all do, or the task knows no padding."""
    if not isinstance(task, Padded):
        return None
    present = task.present(batch)
    return None if bool(present.all()) else present


def without_padding(who: str, name: str, layer: Module, inputs: Tensor, present: Tensor | None) -> Tensor:
    """What a layer reads at positions that hold text: inputs [n, t, in] or [n t, in] -> [m, in].

    Raises:
        InputError: if there is padding, and the inputs are of another shape.
    """
    if present is None:
        return inputs
    if not _is_linear(layer) or inputs.shape[:-1] not in (present.shape, (present.numel(),)):
        raise InputError(
            f"{who}: some of the batch's {list(present.shape)} positions are padding, which cannot be told from text "
            f"in what {name} reads, {list(inputs.shape)}. Leave it out (skip; --skip on the command line), or "
            "give texts of one length."
        )
    return inputs.flatten(end_dim=-2)[present.flatten().to(inputs.device)]


def outputs_first(layer: Module, weight: Parameter) -> Tensor:
    """The weight as [out, in, ...], in the parameter's own memory."""
    return weight.detach().T if is_conv1d(layer) else weight.detach()


def _is_linear(layer: Module) -> bool:
    return isinstance(layer, Linear) or is_conv1d(layer)


def inputs_of(layer: Any, inputs: Tensor) -> Tensor:
    """Rows x that the layer multiplies with its weight seen as [out, in], float32 or wider, [n, in]."""
    wide = inputs.detach().to(torch.promote_types(inputs.dtype, torch.float32))
    if _is_linear(layer):
        return wide.reshape(-1, wide.shape[-1])
    wide = padded(layer, wide)
    columns = F.unfold(wide, layer.kernel_size, dilation=layer.dilation, stride=layer.stride)
    return columns.transpose(1, 2).reshape(-1, columns.shape[1])


def padded(layer: Any, inputs: Tensor) -> Tensor:
    """What a convolution reads [n, channels, ...], with the border that it puts around."""
    if layer.padding == "valid":
        return inputs
    if layer.padding == "same":
        gaps = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        sides = [(gap // 2, gap - gap // 2) for gap in gaps]
    else:
        sides = [(p, p) for p in layer.padding]
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    return F.pad(inputs, [width for side in reversed(sides) for width in side], mode=mode)
