"""Dead channels removed for real: smaller tensors, the same outputs.

Which layers a channel runs through comes from torch-pruning's dependency graph (Fang, Ma, Song, Mi, Wang,
"DepGraph: Towards Any Structural Pruning", CVPR 2023, arXiv 2301.12900), and for gated feed-forwards from their
shapes; what may go is decided here, from exact zeros alone.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import Linear, Module

from ..errors import InputError, require
from ..io.structure import restructure_, size_of
from ..masks.layers import CONVS, copied
from ..masks.mask import Mask
from ..settings import checked
from ._channels import Gone, Graph, dead_rows, gated, layers

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
        InputError: if `constants` is neither, there is nothing dead, or nothing could be removed; with the reasons.
        MissingExtraError: if torch-pruning is not installed.
    """
    tp = require("torch_pruning", extra="prune", purpose="removing channels")
    whole = copied(model)
    if mask is not None:
        mask.apply_(whole)
    modes = {name: module.training for name, module in whole.named_modules()}
    whole.eval()
    dead = {name: rows for name, layer in layers(whole) if bool((rows := dead_rows(layer)).any())}
    if not dead:
        raise InputError(
            "shrink: no filter is dead, so there is nothing to remove. Prune with the pattern Channel first."
        )
    parts, settled = gated(whole, dead)
    more, left = Graph(tp, whole, example_inputs, _tensor_of).removable(dead, settled)
    smaller = _smaller(whole, {**parts, **more}, left, example_inputs, constants)
    if smaller is None:
        reasons = "; ".join(f"{name}: {why}" for name, why in left.items())
        raise InputError(f"shrink could remove no channel. {reasons}.")
    for name, module in smaller[0].named_modules():
        module.training = modes[name]
    return Shrunk(*smaller, left)


Cut = tuple[Module, dict[str, Any]]
"""The smaller model and its record."""


def _smaller(
    whole: Module, parts: dict[str, Gone], left: dict[str, str], inputs: Any, constants: str
) -> Cut | None:
    """The model without all parts; where that fails, without those that can go, the others being `left`.

    Some layers are tied in a way that the graph does not show, as by the heads of an attention.
    """
    if not parts:
        return None
    whole_cut = _cut(whole, list(parts.values()), inputs, constants)
    if not isinstance(whole_cut, str):
        return whole_cut
    accepted: list[Gone] = []
    smaller = None
    for name, part in parts.items():
        tried = _cut(whole, [*accepted, part], inputs, constants)
        if isinstance(tried, str):
            left[name] = tried
        else:
            accepted, smaller = [*accepted, part], tried
    return smaller


def _cut(whole: Module, parts: list[Gone], inputs: Any, constants: str) -> Cut | str:
    """The smaller model and its record; or why these parts cannot go."""
    gone: Gone = {}
    for part in parts:
        for name, sides in part.items():
            for side, indices in sides.items():
                gone.setdefault(name, {}).setdefault(side, set()).update(indices)
    model = deepcopy(whole)
    before = _outputs(model, inputs)
    try:
        biases = _fold_(model, inputs, gone, constants)
        structure = {"format": 1, "layers": _record(model, gone), "biases": biases}
        restructure_(model, {**structure, "biases": []})  # here the biases are made already
        after = _outputs(model, inputs)
    except _Fixed as reason:
        return str(reason)
    except Exception:  # whatever the model's own code raises at other sizes
        return "without its dead channels the model does not run"
    apart = before.shape != after.shape or (
        constants == "fold" and not _apart(before, after) <= _EQUAL * max(1.0, float(before.abs().max()))
    )
    return "without its dead channels the model computes something else" if apart else (model, structure)


class _Fixed(Exception):  # noqa: N818 - a reason, not an error
    """Says why channels cannot go."""


def _apart(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


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
                bound = _rounding(args[0])
                if float((seen - seen[:, :1]).abs().max()) > bound:
                    raise _Fixed(f"what its dead channels send to {name} is not constant")
                value = seen.double().mean(1).to(seen.dtype)
                emitted[name] = value.masked_fill(value.abs() <= bound, 0)

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
            raise _Fixed(
                f"{int(value.count_nonzero())} dead channels still send a constant (a bias, or the shift of a batch "
                f"normalisation) into {name}, a convolution with zero padding, where it cannot be folded into a bias "
                'exactly. Extend the mask with `silence` before training on, or pass constants="drop"'
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


def _rounding(values: Tensor) -> float:
    """How far sums of such values may be apart for having been added up in another order."""
    return 64 * torch.finfo(values.dtype).eps * max(1.0, float(values.detach().abs().max()))


def _record(model: Module, gone: Gone) -> dict[str, dict[str, dict[str, Any]]]:
    record: dict[str, dict[str, dict[str, Any]]] = {}
    for name, sides in gone.items():
        for side, indices in sides.items():
            size = size_of(model.get_submodule(name), side)
            kept = [i for i in range(size) if i not in indices]
            record.setdefault(name, {})[side] = {"of": size, "kept": kept}
    return record


def _outputs(model: Module, inputs: Any) -> Tensor:
    with torch.no_grad():
        return _tensor_of(model(**inputs) if isinstance(inputs, dict) else model(inputs)).float()


def _tensor_of(out: Any) -> Tensor:
    found: Tensor = out.logits if hasattr(out, "logits") else out
    return found
