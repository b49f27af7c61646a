"""Dead channels removed for real: smaller tensors, the same outputs.

Which layers a channel runs through comes from torch-pruning's dependency graph (Fang, Ma, Song, Mi, Wang,
"DepGraph: Towards Any Structural Pruning", CVPR 2023, arXiv 2301.12900); what may go is decided here, from
exact zeros alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import Linear, Module

from ..errors import InputError, require
from ..io.structure import restructure_
from ..masks.layers import CONVS, RUNNING_NORMS, TRANSPOSED, copied
from ..masks.mask import Mask
from ..settings import checked

_EQUAL = 1e-4  # largest difference of outputs, relative to the largest output, in float32


@dataclass(frozen=True)
class Shrunk:
    """A smaller model that computes the same.

    Attributes:
        model: without the removed channels.
        structure: the record with which `unweave.io.structure.restructure_` gives a fresh model this shape;
            JSON-able.
        left: layer -> why its dead filters could not be removed, or not all of them.
    """

    model: Module
    structure: dict[str, Any] = field(repr=False)
    left: dict[str, str]


@checked
def shrink(
    model: Module,
    example_inputs: Any,
    mask: Mask | None = None,
    *,
    constants: Literal["fold", "drop"] = "fold",
) -> Shrunk:
    """Remove every dead output filter that nothing else needs, and whatever read it.

    A filter is dead when all its weights are zero. Its channel is then constant: zero if bias and batch
    normalisation are dead too (see `silence`), and otherwise what they emit. A constant is folded into the
    bias of the layers that read it, where that is exact; a convolution with zero padding sees it end at the
    image's border, and is not. Where channels of several layers are added up, one goes only if it is dead in
    all of them. Outputs before and after are compared on the example inputs, in eval mode.

    Args:
        model: left unchanged.
        example_inputs: what the model is called with: a tensor [n, ...], or a dictionary of keyword
            arguments.
        mask: applied first; None relies on the model's own zeros.
        constants: "fold" as above; "drop" removes constants that cannot be folded, which changes the outputs:
            then no comparison is made, and the model should be trained on, or its batch normalisation
            measured afresh.

    Returns:
        The smaller model, its structure record, and the layers that had to stay as they were, with reasons.

    Raises:
        InputError: if `constants` is neither, there is nothing dead, nothing could be removed, or a constant can
            neither be folded nor dropped.
        MissingExtraError: if torch-pruning is not installed.
    """
    tp = require("torch_pruning", extra="prune", purpose="removing channels")
    whole = copied(model)
    if mask is not None:
        mask.apply_(whole)
    modes = {name: module.training for name, module in whole.named_modules()}
    whole.eval()
    graph = _graph(tp, whole, example_inputs)
    dead = {name: rows for name, layer in _layers(whole) if bool((rows := _dead_rows(layer)).any())}
    if not dead:
        raise InputError(
            "shrink: no filter is dead, so there is nothing to remove. Prune with the pattern Channel first."
        )
    parts, left = _removable(tp, graph, whole, dead)
    smaller = _cut(whole, list(parts.values()), example_inputs, constants)
    if smaller is None:
        smaller = _cut_one_by_one(whole, parts, left, example_inputs, constants)
    if smaller is None or not parts:
        reasons = "; ".join(f"{name}: {why}" for name, why in left.items())
        raise InputError(f"shrink could remove no channel. {reasons}.")
    for name, module in smaller[0].named_modules():
        module.training = modes[name]
    return Shrunk(*smaller, left)


Gone = dict[str, dict[str, set[int]]]
"""Layer -> "in" or "out" -> indices to remove."""
Coupled = list[tuple[str, str, list[tuple[int, int]]]]
"""What goes with the channels of a layer: (another layer, "in" or "out", [(its index, the channel)])."""


def _cut(
    whole: Module, parts: list[Gone], inputs: Any, constants: str
) -> tuple[Module, dict[str, Any]] | None:
    """The smaller model and its record; None if it does not compute the same."""
    gone: Gone = {}
    for part in parts:
        for name, sides in part.items():
            for side, indices in sides.items():
                gone.setdefault(name, {}).setdefault(side, set()).update(indices)
    model = deepcopy(whole)
    before = _outputs(model, inputs)
    biases = _fold_(model, inputs, gone, constants)
    structure = {"format": 1, "layers": _record(model, gone), "biases": biases}
    restructure_(model, {**structure, "biases": []})  # here the biases are made already
    try:
        after = _outputs(model, inputs)
    except (RuntimeError, ValueError, IndexError):
        return None
    if constants == "drop":
        return (model, structure) if before.shape == after.shape else None
    close = before.shape == after.shape and _apart(before, after) <= _EQUAL * max(
        1.0, float(before.abs().max())
    )
    return (model, structure) if close else None


def _cut_one_by_one(
    whole: Module, parts: dict[str, Gone], left: dict[str, str], inputs: Any, constants: str
) -> tuple[Module, dict[str, Any]] | None:
    """Where all parts together fail, those that do not; the others go from `parts` to `left`.

    Some layers are tied in a way that the graph does not show, as by the heads of an attention.
    """
    accepted: list[Gone] = []
    smaller = None
    for name, part in list(parts.items()):
        tried = _cut(whole, [*accepted, part], inputs, constants)
        if tried is None:
            left[name] = "without its dead channels the model computes something else or nothing at all"
            del parts[name]
        else:
            accepted, smaller = [*accepted, part], tried
    return smaller


def _apart(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


def _graph(tp: Any, model: Module, inputs: Any) -> Any:
    flags = {p: p.requires_grad for p in model.parameters()}
    for p in flags:
        p.requires_grad_(True)  # the graph is read off autograd's
    try:
        with torch.enable_grad():
            return tp.DependencyGraph().build_dependency(
                model, example_inputs=inputs, output_transform=_tensor_of, verbose=False
            )
    except Exception as error:
        raise InputError(
            f"shrink: torch-pruning could not trace the model ({type(error).__name__}: {error})."
        ) from error
    finally:
        for p, flag in flags.items():
            p.requires_grad_(flag)


def _layers(model: Module) -> Iterator[tuple[str, Module]]:
    for name, module in model.named_modules():
        if isinstance(module, (Linear, *CONVS)):
            yield name, module


def _dead_rows(layer: Any) -> Tensor:
    rows: Tensor = (layer.weight == 0).flatten(1).all(1)
    return rows


def _removable(
    tp: Any, graph: Any, model: Module, dead: dict[str, Tensor]
) -> tuple[dict[str, Gone], dict[str, str]]:
    """For each layer with dead filters what goes with them, or why they stay."""
    names = {id(module): name for name, module in model.named_modules()}
    modules = dict(model.named_modules())
    parts: dict[str, Gone] = {}
    left: dict[str, str] = {}
    for name, rows in dead.items():
        coupled, why = _coupled(tp, graph, modules[name], rows, names)
        if why:
            left[name] = why
            continue
        if bool(rows.all()):
            raise InputError(
                f"shrink: layer {name} has no living filter left; the model computes a constant."
            )
        blocked, candidates = _blocked(coupled, modules, dead), int(rows.sum())
        if len(blocked) == candidates:
            left[name] = "the channels it is added to are alive in another layer"
            continue
        if blocked:
            left[name] = f"{len(blocked)} of its dead channels are alive in a layer they are added to"
        part = parts.setdefault(name, {})
        for owner, side, pairs in coupled:
            here = part.setdefault(owner, {}).setdefault(side, set())
            here.update(index for index, channel in pairs if channel not in blocked)
    return parts, left


def _coupled(tp: Any, graph: Any, layer: Any, rows: Tensor, names: dict[int, str]) -> tuple[Coupled, str]:
    """What the graph ties to the dead channels of a layer; or why they cannot go."""
    if isinstance(layer, TRANSPOSED) or getattr(layer, "groups", 1) > 1:
        return [], "grouped and transposed convolutions are not cut"
    remove = tp.prune_linear_out_channels if isinstance(layer, Linear) else tp.prune_conv_out_channels
    coupled: Coupled = []
    why = ""
    for item in graph.get_pruning_group(layer, remove, idxs=rows.nonzero().flatten().tolist()):
        target = item.dep.target.module
        owner = names.get(id(target))
        why = _mixing(item, owner) or why
        if owner is not None and not why:
            side = "out" if graph.is_out_channel_pruning_fn(item.dep.handler) else "in"
            coupled.append((owner, side, list(zip(item.idxs, item.root_idxs, strict=True))))
    if not why and not any(side == "in" for _, side, _ in coupled):
        why = "its channels are the model's output"
    return coupled, why


def _mixing(item: Any, owner: str | None) -> str:
    """Why channels that run through a node of the graph cannot go; "" if they can."""
    target = item.dep.target.module
    if owner is None:
        operation = item.dep.target.name
        if "Pad" in operation or "_Slice" in operation or isinstance(target, torch.nn.Parameter):
            return "its channels run through a padded or sliced shortcut, or are added to a bare parameter"
        return ""
    if not isinstance(target, (Linear, *CONVS, *RUNNING_NORMS)):
        return f"its channels run through {owner} ({type(target).__name__}), which mixes them"
    if isinstance(target, TRANSPOSED) or getattr(target, "groups", 1) > 1:
        return f"its channels run through the grouped or transposed convolution {owner}"
    return ""


def _blocked(coupled: Coupled, modules: dict[str, Module], dead: dict[str, Tensor]) -> set[int]:
    """Channels that are alive in a layer they are added to."""
    return {
        channel
        for owner, side, pairs in coupled
        if side == "out" and not isinstance(modules[owner], RUNNING_NORMS)
        for index, channel in pairs
        if owner not in dead or not bool(dead[owner][index])
    }


def _fold_(model: Module, inputs: Any, gone: Gone, constants: str) -> list[str]:
    """Move what removed channels emit into the bias of their readers; returns layers that gained one."""
    modules = dict(model.named_modules())
    emitted: dict[str, Tensor] = {}
    hooks = []
    for name, sides in gone.items():
        if "in" in sides:
            at = torch.tensor(sorted(sides["in"]))

            def look(layer: Module, args: tuple[Tensor, ...], name: str = name, at: Tensor = at) -> None:
                dim = -1 if isinstance(layer, Linear) else 1
                seen = args[0].detach().movedim(dim, 0).index_select(0, at.to(args[0].device)).flatten(1)
                if float((seen - seen[:, :1]).abs().max()) > 0:
                    raise InputError(f"shrink: a channel of {name} that should be constant is not.")
                emitted[name] = seen[:, 0]

            hooks.append(modules[name].register_forward_pre_hook(look))
    try:
        _outputs(model, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    biases = []
    for name, value in emitted.items():
        if not bool(value.any()):
            continue
        layer: Any = modules[name]
        if (
            isinstance(layer, CONVS)
            and layer.padding_mode == "zeros"
            and layer.padding not in ("valid", (0,) * len(layer.kernel_size))
        ):
            if constants == "drop":
                continue
            raise InputError(
                f"shrink: {int(value.count_nonzero())} dead channels still send a constant (a bias, or "
                "the shift of a batch "
                f"normalisation) into {name}, a convolution with zero padding, where it cannot be folded "
                "into a bias "
                'exactly. Extend the mask with `silence` before training on, or pass constants="drop".'
            )
        at = torch.tensor(sorted(gone[name]["in"]), device=layer.weight.device)
        columns = (
            layer.weight.detach().index_select(1, at).flatten(2).sum(2)
            if layer.weight.ndim > 2
            else layer.weight.detach()[:, at]
        )
        shift = columns @ value.to(columns.dtype)
        if layer.bias is None:
            layer.register_parameter("bias", torch.nn.Parameter(shift, layer.weight.requires_grad))
            biases.append(name)
        else:
            with torch.no_grad():
                layer.bias += shift
    return biases


def _record(model: Module, gone: Gone) -> dict[str, dict[str, dict[str, Any]]]:
    modules = dict(model.named_modules())
    layers: dict[str, dict[str, dict[str, Any]]] = {}
    for name, sides in gone.items():
        weight: Any = (
            modules[name].weight
            if not isinstance(modules[name], RUNNING_NORMS)
            else modules[name].running_mean
        )
        for side, indices in sides.items():
            size = weight.shape[0 if side == "out" else 1]
            kept = [i for i in range(size) if i not in indices]
            layers.setdefault(name, {})[side] = {"of": size, "kept": kept}
    return layers


def _outputs(model: Module, inputs: Any) -> Tensor:
    with torch.no_grad():
        return _tensor_of(model(**inputs) if isinstance(inputs, dict) else model(inputs)).float()


def _tensor_of(out: Any) -> Tensor:
    found: Tensor = out.logits if hasattr(out, "logits") else out
    return found
