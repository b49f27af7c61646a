"""What is known about shapes ahead, used: a path exported for its shape, and its memory laid out before it runs.

`torch.export` gives the graph of a path for one shape of patch. Every intermediate then has a known size and life: from
the operation that makes it to the last that reads it. Offsets are given largest first, each the lowest that meets no
other alive at the same time; the arena's size is the planned peak. This stands for the paper's compiler, whose code was
not released: one static program a path, picked by the split map before a frame is run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import Node
from torch.nn import Module

_ALIASES = (
    "view",
    "reshape",
    "permute",
    "transpose",
    "unsqueeze",
    "squeeze",
    "alias",
    "slice",
    "select",
    "expand",
)


@dataclass(frozen=True)
class MemoryPlan:
    """Where intermediates lie.

    Attributes:
        naive: bytes of all intermediates, each in a place of its own.
        live: bytes alive at once at the fullest moment: no plan takes less.
        peak: bytes of the arena with these offsets.
        offsets: intermediate -> (first byte, bytes, made at step, last read at step).
    """

    naive: int
    live: int
    peak: int
    offsets: dict[str, tuple[int, int, int, int]]


def plan_memory(exported: ExportedProgram) -> MemoryPlan:
    """Lay out the intermediates of an exported program; inputs, weights and views of others take no place.

    Args:
        exported: by `torch.export.export`, all shapes static.
    """
    nodes = list(exported.graph.nodes)
    at = {node: i for i, node in enumerate(nodes)}
    lives: dict[Node, tuple[int, int, int]] = {}
    for node in nodes:
        value = node.meta.get("val")
        if node.op == "call_function" and isinstance(value, Tensor) and not _is_view(node):
            last = max((at[user] for user in _readers(node)), default=at[node])
            lives[node] = (value.numel() * value.element_size(), at[node], last)
    placed: dict[str, tuple[int, int, int, int]] = {}
    for node, (size, first, last) in sorted(lives.items(), key=lambda item: (-item[1][0], item[1][1])):
        beside = sorted(
            (offset, offset + bytes_) for offset, bytes_, a, b in placed.values() if a <= last and first <= b
        )
        start = 0
        for low, high in beside:
            if start + size <= low:
                break
            start = max(start, high)
        placed[node.name] = (start, size, first, last)
    live = max(
        (
            sum(size for size, first, last in lives.values() if first <= step <= last)
            for step in range(len(nodes))
        ),
        default=0,
    )
    peak = max((offset + size for offset, size, _, _ in placed.values()), default=0)
    return MemoryPlan(sum(size for size, _, _ in lives.values()), live, peak, placed)


def _is_view(node: Node) -> bool:
    name = str(node.target).removeprefix("aten.").partition(".")[0]
    return name.strip("_") in _ALIASES


def _readers(node: Node) -> list[Node]:
    """Nodes that read it, through views of it too."""
    found: list[Node] = []
    for user in node.users:
        found += [user, *(_readers(user) if user.op == "call_function" and _is_view(user) else ())]
    return found


def compiled(net: Module, example: Tensor) -> tuple[Callable[[Tensor], Tensor], MemoryPlan]:
    """A static program of a path for one shape of input, and its memory.

    Args:
        net: patches [n, 3, h, w] -> [n, 3, scale h, scale w].
        example: an input of the shape; any other is refused when it is run.
    """
    net = net.eval()
    with torch.no_grad():
        exported = torch.export.export(net, (example,))
    return exported.module(), plan_memory(exported)
