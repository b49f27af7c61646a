"""Bottleneck adapters whose second matrix is split into pieces that take turns."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import Dropout, LayerNorm, Linear, Module, Parameter

from ..errors import InputError


class SplitAdapter(Module):
    """A bottleneck adapter h -> scale U(dropout(gelu(D(LN(h))))) whose U is n pieces with disjoint entries.

    In train mode each call draws one piece from torch's global generator (which `fit_` seeds) for the whole batch. In
    eval mode it must have been merged: U is then the mean of the pieces, the expectation of the random adapter.

    Attributes:
        pieces: n; 1 is the plain adapter.
        merged: whether U is one matrix.
    """

    def __init__(self, width: int, rank: int, pieces: int, scale: float, dropout: float) -> None:
        super().__init__()
        self.norm, self.down, self.dropout = LayerNorm(width), Linear(width, rank), Dropout(dropout)
        self.up = Parameter(torch.zeros(pieces, width, rank))
        self.bias = Parameter(torch.zeros(pieces, width))
        order = torch.randperm(width * rank)
        keep = torch.zeros(pieces, width * rank, dtype=torch.bool)
        for k, part in enumerate(order.tensor_split(pieces)):
            keep[k, part] = True
        self.register_buffer("keep", keep.view(pieces, width, rank))
        self.keep: Tensor
        self.pieces, self.scale, self.merged = pieces, scale, False
        torch.nn.init.kaiming_uniform_(self.down.weight, a=5**0.5)
        torch.nn.init.zeros_(self.down.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """The adapter's addition to a layer's output, of `hidden`'s shape [..., width]."""
        if self.merged:
            up, bias = self.up[0], self.bias[0]
        elif self.training:
            k = int(torch.randint(self.pieces, ())) if self.pieces > 1 else 0
            up, bias = self.up[k] * self.keep[k], self.bias[k]
        else:
            raise InputError(
                "a SplitAdapter in eval mode must be merged: call merge_() first. Its pieces alone are random."
            )
        inner = self.dropout(F.gelu(self.down(self.norm(hidden))))
        return self.scale * F.linear(inner, up, bias)

    @torch.no_grad()
    def merge_(self) -> None:
        """Put the mean of the pieces in their place; not to be undone."""
        if self.merged:
            return
        self.up = Parameter((self.up * self.keep).mean(0, keepdim=True), self.up.requires_grad)
        self.bias = Parameter(self.bias.mean(0, keepdim=True), self.bias.requires_grad)
        self.keep = torch.ones(1, 0, 0, dtype=torch.bool, device=self.up.device)
        self.pieces, self.merged = 1, True

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        stored = state_dict.get(f"{prefix}keep")
        if stored is not None and stored.shape != self.keep.shape:
            held, have = ("merged", "in pieces") if stored.numel() == 0 else ("in pieces", "merged")
            raise InputError(
                f"{prefix[:-1]}: the weights are of an adapter that is {held}; this one is {have}. "
                f"{'Call merge_() before loading.' if held == 'merged' else 'Make the adapter anew before loading.'}"
            )
        super()._load_from_state_dict(state_dict, prefix, *rest)


class Adapted(Module):
    """A layer with an adapter beside it: layer(x) + adapter(x).

    Attributes:
        layer: as it was.
        adapter: added to its output.
    """

    def __init__(self, layer: Module, adapter: SplitAdapter) -> None:
        super().__init__()
        self.layer, self.adapter = layer, adapter

    def forward(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The layer's output and the adapter's addition."""
        out: Tensor = self.layer(hidden, *args, **kwargs)
        added: Tensor = self.adapter(hidden)
        return out + added
