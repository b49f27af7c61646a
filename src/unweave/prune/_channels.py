"""Which channels go together: read off torch-pruning's dependency graph, and off gated feed-forwards by their shapes.

Every reason why a layer's dead filters cannot go is a text, never an error: the other layers are cut all the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import Linear, Module

from ..io.structure import size_of
from ..masks.layers import CONVS, RUNNING_NORMS, TRANSPOSED
from .prosparse.feed_forward import FeedForward, feed_forward

Gone = dict[str, dict[str, set[int]]]
"""Layer -> "in" or "out" -> indices to remove."""
Coupled = list[tuple[str, str, list[tuple[int, int]]]]
"""What goes with the channels of a layer: (another layer, "in" or "out", [(its index, the channel)])."""

_STEPS = (
    4  # of the search for one layer, for each edge of the graph; chains of layers and sums take less than one
)


def layers(model: Module) -> Iterator[tuple[str, Module]]:
    """The layers whose filters may be removed, by name."""
    for name, module in model.named_modules():
        if isinstance(module, (Linear, *CONVS)):
            yield name, module


def dead_rows(layer: Any) -> Tensor:
    """Which filters of a layer have no living weight, bool [out]."""
    rows: Tensor = (layer.weight == 0).flatten(1).all(1)
    return rows


def gated(model: Module, dead: dict[str, Tensor]) -> tuple[dict[str, Gone], set[str]]:
    """What may go of the gated feed-forwards, and the layers that this settles.

    A unit of down(act(gate(x)) * up(x)) is zero if its row of `up` is, or its row of `gate` where act(0) = 0; then
    its rows of both go, and its column of `down`.

    Args:
        model: in eval mode.
        dead: layer -> its dead filters.
    """
    names = {id(module): name for name, module in model.named_modules()}
    parts: dict[str, Gone] = {}
    settled: set[str] = set()
    for block in model.modules():
        found = feed_forward(block)
        if found is None:
            continue
        units = _silent_units(found)
        wide = [names[id(layer)] for layer in found.wide]
        if not units or not any(name in dead for name in wide):
            continue
        if len(units) == found.down.in_features:
            units.discard(min(units))  # a layer keeps one unit
        parts[wide[0]] = {
            **{name: {"out": set(units)} for name in wide}, names[id(found.down)]: {"in": set(units)}
        }  # fmt: skip
        settled.update(wide)
    return parts, settled


@torch.no_grad()
def _silent_units(found: FeedForward) -> set[int]:
    silent = [dead_rows(layer) & (True if layer.bias is None else layer.bias == 0) for layer in found.wide]
    zeros = found.down.weight.new_zeros(1, found.down.in_features)
    try:
        still = torch.equal(found.activation(zeros), zeros)
    except Exception:  # no function of one tensor
        return set()
    # which of the two is the gate need not be known: without act(0) = 0 both must be dead
    dead = silent[0] | silent[1] if still else silent[0] & silent[1]
    return set(dead.nonzero().flatten().tolist())


class Graph:
    """torch-pruning's dependency graph of a model, searched no further than a bound.

    Args:
        tp: the package.
        model: in eval mode; its parameters are marked as trainable while the graph is read off autograd's.
        inputs: what the model is called with.
        output: picks the tensor from what the model returns.
    """

    def __init__(self, tp: Any, model: Module, inputs: Any, output: Any) -> None:
        self._tp, self._model = tp, model
        self._names = {id(module): name for name, module in model.named_modules()}
        self._lost: set[str] = set()
        self._steps = 0
        self.why = ""
        flags = {p: p.requires_grad for p in model.parameters()}
        for p in flags:
            p.requires_grad_(True)
        try:
            with torch.enable_grad():
                self._graph = tp.DependencyGraph().build_dependency(
                    model, example_inputs=inputs, output_transform=output, verbose=False
                )
            self._bound_()
        except Exception as error:  # whatever the package or the model raises
            self.why = f"torch-pruning could not trace the model ({type(error).__name__}: {error})"
        finally:
            for p, flag in flags.items():
                p.requires_grad_(flag)

    def removable(self, dead: dict[str, Tensor], settled: set[str]) -> tuple[dict[str, Gone], dict[str, str]]:
        """For each layer with dead filters what goes with them, or why they stay.

        Args:
            dead: layer -> its dead filters.
            settled: layers that are not looked at.
        """
        modules = dict(self._model.named_modules())
        parts: dict[str, Gone] = {}
        left: dict[str, str] = {}
        for name, rows in dead.items():
            if name in settled:
                continue
            coupled, why = self._coupled(name, modules[name], rows)
            blocked, candidates = _blocked(coupled, modules, dead), int(rows.sum())
            if not why and bool(rows.all()):
                why = "it has no living filter left"
            if not why and len(blocked) == candidates:
                why = "the channels it is added to are alive in another layer"
            if why:
                left[name] = why
                continue
            if blocked:
                left[name] = f"{len(blocked)} of its dead channels are alive in a layer they are added to"
            part = parts.setdefault(name, {})
            for owner, side, pairs in coupled:
                here = part.setdefault(owner, {}).setdefault(side, set())
                here.update(index for index, channel in pairs if channel not in blocked)
        return parts, left

    def _bound_(self) -> None:
        dependencies = [d for node in self._graph.module2node.values() for d in node.dependencies]
        most = _STEPS * len(dependencies)

        def step(indices: Any) -> Any:
            self._steps += 1
            if self._steps > most:
                raise _Lost
            return indices

        for dependency in dependencies:
            dependency.index_mapping = [*dependency.index_mapping, step]

    def _coupled(self, name: str, layer: Module, rows: Tensor) -> tuple[Coupled, str]:
        """What the graph ties to the dead channels of a layer; or why they cannot go."""
        if self.why:
            return [], self.why
        if isinstance(layer, TRANSPOSED) or getattr(layer, "groups", 1) > 1:
            return [], "grouped and transposed convolutions are not cut"
        twins = re.sub(r"\d+", "#", name)  # the same layer of another block ends where this one did
        lost = (
            "its channels run through operations that the search cannot follow to an end, such as attention's"
        )
        if twins in self._lost:
            return [], lost
        tp, self._steps = self._tp, 0
        remove = tp.prune_linear_out_channels if isinstance(layer, Linear) else tp.prune_conv_out_channels
        try:
            group = self._graph.get_pruning_group(layer, remove, idxs=rows.nonzero().flatten().tolist())
        except _Lost:
            self._lost.add(twins)
            return [], lost
        except Exception as error:  # the package asserts and indexes where it meets what it does not know
            return [], f"torch-pruning cannot follow its channels ({type(error).__name__}: {error})"
        return self._read(group)

    def _read(self, group: Any) -> tuple[Coupled, str]:
        coupled: Coupled = []
        for item in group:
            target = item.dep.target.module
            owner = self._names.get(id(target))
            if why := _mixing(item, owner):
                return [], why
            if owner is None:
                continue
            side = "out" if self._graph.is_out_channel_pruning_fn(item.dep.handler) else "in"
            if max(item.idxs, default=0) >= size_of(target, side):
                return [], f"its channels are put together anew on the way to {owner}"
            coupled.append((owner, side, list(zip(item.idxs, item.root_idxs, strict=True))))
        if not any(side == "in" for _, side, _ in coupled):
            return [], "its channels are the model's output"
        return coupled, ""


class _Lost(Exception):  # noqa: N818 - not an error
    pass


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
