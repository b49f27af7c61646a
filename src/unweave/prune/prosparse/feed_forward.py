"""A feed-forward that skips what a zero activation makes idle."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch.nn import Linear, Module

from ...errors import InputError


class SparseFeedForward(Module):
    """A gated feed-forward for one token at a time that reads only the rows its activations need.

    The gate is computed whole; where it is zero, the rows of `up` and the columns of `down` are not touched. For many
    tokens at once it computes as the dense one does: skipping then saves nothing.

    Args:
        block: with gate_proj, up_proj and down_proj without biases, and FATReLU or ReLU.
    """

    def __init__(self, block: Any) -> None:
        super().__init__()
        linears: list[Linear] = [block.gate_proj, block.up_proj, block.down_proj]
        if any(layer.bias is not None for layer in linears):
            raise InputError("SparseFeedForward takes feed-forwards without biases.")
        self.act: Callable[[Tensor], Tensor] = block.act_fn
        gate, up, down = (layer.weight.detach() for layer in linears)
        self.register_buffer("gate", gate)
        self.register_buffer("up", up)
        self.register_buffer("down", down.T.contiguous())  # rows to pick, not columns
        self.gate: Tensor
        self.up: Tensor
        self.down: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """The block's output for x [..., d]."""
        active = self.act(F.linear(x, self.gate))
        if x.numel() != x.shape[-1]:
            return (active * F.linear(x, self.up)) @ self.down
        flat, token = active.flatten(), x.flatten()
        rows = flat.nonzero().flatten()
        inner = flat[rows] * (self.up[rows] @ token)
        return (inner @ self.down[rows]).view(x.shape)
