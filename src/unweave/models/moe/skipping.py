"""Experts of which a token's second is left out where the first outweighs it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from ...errors import InputError
from .blocks import MoE


class Skipping(Module):
    """Two experts a token, or one: the second is skipped where its weight is below beta times the first's.

    The first then takes both weights, which is 1 where a model renormalises them.

    Args:
        experts: the block's own.
        beta: 0 skips nothing.
    """

    def __init__(self, experts: Module, beta: float) -> None:
        super().__init__()
        self.experts, self.beta = experts, beta
        self.tokens = self.skipped = 0  # seen and skipped so far

    def forward(self, hidden: Tensor, index: Tensor, weights: Tensor) -> Tensor:
        """As the experts': hidden [tokens, H], index and weights [tokens, 2] -> [tokens, H]."""
        first = weights.argmax(1, keepdim=True)
        large, small = weights.gather(1, first), weights.gather(1, 1 - first)
        alone = (small < self.beta * large).flatten()
        self.tokens, self.skipped = self.tokens + len(alone), self.skipped + int(alone.sum())
        if not bool(alone.any()):
            both: Tensor = self.experts(hidden, index, weights)
            return both
        y = torch.empty_like(hidden)
        y[alone] = self.experts(hidden[alone], index.gather(1, first)[alone], (large + small)[alone])
        if not bool(alone.all()):
            y[~alone] = self.experts(hidden[~alone], index[~alone], weights[~alone])
        return y


def skip_(moe: MoE, beta: float) -> None:
    """Let a block skip second experts, in place.

    Raises:
        InputError: if its tokens do not take two experts, or the block weighs what experts read.
    """
    if moe.top_k != 2 or moe.scales_input:
        raise InputError(
            f"skipping is for two experts a token, weighed after they answered; {moe.name} takes {moe.top_k}"
            f"{' and weighs what they read' if moe.scales_input else ''}. Leave it out."
        )
    name = next(n for n, child in moe.block.named_children() if child is moe.experts)
    experts: Any = moe.experts
    setattr(moe.block, name, Skipping(experts, beta).train(experts.training))
