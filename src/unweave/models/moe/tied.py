"""Experts of which several answer with the same merged weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from ...errors import InputError
from .blocks import MoE
from .cut import recount_, slice_own_


class Tied(Module):
    """Fewer experts than the router has outputs: each output is handed to its cluster's merged expert.

    The router is untouched, so tokens go where they went; memory shrinks. Where a token chose two members of one
    cluster their weights are added, and the second counts for nothing.

    Args:
        experts: the merged experts [M, ., .].
        places: for each output of the router, its expert: [N].
    """

    def __init__(self, experts: Module, places: Sequence[int]) -> None:
        super().__init__()
        self.experts = experts
        self.places: Tensor
        self.register_buffer("places", torch.tensor(list(places)))

    def forward(self, hidden: Tensor, index: Tensor, weights: Tensor) -> Tensor:
        """As the experts': hidden [tokens, H], index and weights [tokens, k] -> [tokens, H]."""
        merged = self.places[index.clamp(max=len(self.places) - 1)]
        same = merged[:, :, None] == merged[:, None, :]
        first = same.to(torch.uint8).argmax(-1)  # of the slots with the same expert, the first
        summed = torch.zeros_like(weights).scatter_add(1, first, weights)
        out: Tensor = self.experts(hidden, merged, summed)
        return out


def tie_(model: Module, moe: MoE, clusters: Sequence[Sequence[int]], field: str | None) -> None:
    """Leave the first member's place of each cluster of experts, in place, and hand the router's outputs on to them.

    Args:
        model: holds the block.
        moe: the block, whose experts at those places hold the merged weights already.
        clusters: every expert once.
        field: the configuration's number of experts (`expert_count`).

    Raises:
        InputError: if the clusters are no partition, or the block weighs what experts read.
    """
    if sorted(e for c in clusters for e in c) != list(range(moe.count)) or not all(clusters):
        raise InputError(f"clusters of {moe.name} must hold every one of its {moe.count} experts once.")
    if moe.scales_input:
        raise InputError(
            f"{moe.name} weighs what its experts read, so weights of two that were merged do not add up. Prune instead."
        )
    places = [0] * moe.count
    for place, cluster in enumerate(clusters):
        for e in cluster:
            places[e] = place
    slice_own_(moe.experts, moe.count, torch.tensor([c[0] for c in clusters]))
    experts: Any = moe.experts
    recount_(model, moe, len(clusters), field, only=experts)
    name = next(n for n, child in moe.block.named_children() if child is moe.experts)
    setattr(moe.block, name, Tied(experts, places).train(experts.training))
