"""Gated feed-forwards: found by their layers' shapes, and one that skips what a zero activation makes idle."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import Dropout, Linear, Module

from ...errors import InputError


@dataclass(frozen=True)
class FeedForward:
    """A gated feed-forward, down(act(gate(x)) * up(x)), inside a model.

    Attributes:
        block: the module.
        wide: its two layers [d_ff, d], gate and up, in the module's order.
        down: its layer [d, d_ff].
        name: of its activation, a child of `block`.
    """

    block: Module
    wide: tuple[Linear, Linear]
    down: Linear
    name: str

    @property
    def activation(self) -> Module:
        """What the gate runs through."""
        return self.block.get_submodule(self.name)


def feed_forward(block: Module) -> FeedForward | None:
    """A module as a gated feed-forward: two linear layers to one width, one back, and an activation between them.

    None if it has other children than these and dropout, or if the two widths are one, so that the layers cannot be
    told apart.
    """
    children = {n: c for n, c in block.named_children() if not isinstance(c, Dropout)}
    linears = [c for c in children.values() if isinstance(c, Linear)]
    others = [n for n, c in children.items() if not isinstance(c, Linear)]
    if len(linears) != 3 or len(others) != 1 or next(children[others[0]].parameters(), None) is not None:
        return None
    narrow = min(layer.out_features for layer in linears)
    down = [layer for layer in linears if layer.out_features == narrow]
    wide = [layer for layer in linears if layer.out_features != narrow]
    if len(down) != 1 or any(w.weight.shape != down[0].weight.shape[::-1] for w in wide):
        return None
    return FeedForward(block, (wide[0], wide[1]), down[0], others[0])


class SparseFeedForward(Module):
    """A gated feed-forward for one token at a time that reads only the rows its activations need.

    The gate is computed whole; where it is zero, the rows of `up` and the columns of `down` are not touched. For many
    tokens at once it computes as the dense one does: skipping then saves nothing.

    Args:
        block: a gated feed-forward as Llama's, without biases, its activation FATReLU or ReLU.

    Raises:
        InputError: if it is none, or has biases.
    """

    def __init__(self, block: Module) -> None:
        super().__init__()
        found = feed_forward(block)
        gate, up = _gate_and_up(found) if found is not None else (None, None)
        if found is None or gate is None or up is None:
            raise InputError(
                "SparseFeedForward takes a module that computes down(act(gate(x)) * up(x)) with three linear layers, "
                f"two of them [d_ff, d], and the activation as a module of its own; got a {type(block).__name__}."
            )
        if any(layer.bias is not None for layer in (gate, up, found.down)):
            raise InputError("SparseFeedForward takes feed-forwards without biases.")
        self.act = found.activation
        self.register_buffer("gate", gate.weight.detach())
        self.register_buffer("up", up.weight.detach())
        self.register_buffer("down", found.down.weight.detach().T.contiguous())  # rows to pick, not columns
        self.gate: Tensor
        self.up: Tensor
        self.down: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """The block's output for x [..., d]."""
        active: Tensor = self.act(F.linear(x, self.gate))
        if x.numel() != x.shape[-1]:
            return (active * F.linear(x, self.up)) @ self.down
        flat, token = active.flatten(), x.flatten()
        rows = flat.nonzero().flatten()
        inner = flat[rows] * (self.up[rows] @ token)
        return (inner @ self.down[rows]).view(x.shape)


@torch.no_grad()
def _gate_and_up(found: FeedForward) -> tuple[Linear, Linear] | tuple[None, None]:
    """Gate is what the activation reads; seen by running the block once."""
    read: dict[Module, Tensor] = {}
    said: dict[Module, Tensor] = {}

    def note(module: Module, args: tuple[Tensor, ...], out: Tensor) -> None:
        read[module], said[module] = args[0], out

    parts = (*found.wide, found.down, found.activation)
    hooks = [part.register_forward_hook(note) for part in parts]
    weight = found.down.weight
    try:
        found.block(torch.ones(1, len(weight), dtype=weight.dtype, device=weight.device))
    finally:
        for hook in hooks:
            hook.remove()
    for gate, up in (found.wide, found.wide[::-1]):
        if len(read) == len(parts) and read[found.activation] is said[gate]:
            inner = said[found.activation] * said[up]
            return (gate, up) if torch.equal(read[found.down], inner) else (None, None)
    return None, None
