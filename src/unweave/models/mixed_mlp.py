"""Plain two-layer feed-forwards of transformer blocks, found by structure, and mixtures of several of one kind."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import Tensor
from torch.nn import Dropout, Linear, Module, ModuleList, Parameter


class MixedMLP(Module):
    """Several feed-forwards of which each token passes the few that a router picks.

    y = sum over the top-k e of r_e E_e(x), with r the router's softmax in float32, renormalised over the chosen. The
    router begins at zero.

    Args:
        experts: of one shape, [..., d] -> [..., d].
        width: d.
        top_k: experts a token.
        dropout: share of an expert's answer that is zeroed while training.
    """

    def __init__(self, experts: Sequence[Module], width: int, top_k: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.experts = ModuleList(experts)
        like = next(experts[0].parameters())
        self.router = Linear(width, len(experts), bias=False, device="meta")  # draws nothing
        self.router.weight = Parameter(like.new_zeros(len(experts), width))
        self.top_k, self.dropout = top_k, Dropout(dropout)
        self.told: tuple[Tensor, Tensor] | None = None  # chosen [tokens, k], probabilities [tokens, experts]

    def forward(self, hidden_states: Tensor) -> Tensor:
        """[..., d] -> [..., d]."""
        x = hidden_states.reshape(-1, hidden_states.shape[-1])
        p = self.router(x).to(torch.promote_types(x.dtype, torch.float32)).softmax(-1)
        weights, index = p.topk(self.top_k, dim=-1)
        weights = (weights / weights.sum(-1, keepdim=True)).to(x.dtype)
        self.told = index, p
        y = torch.zeros_like(x)
        for e, expert in enumerate(self.experts):
            tokens, slot = torch.where(index == e)
            if len(tokens):
                answer = self.dropout(expert(x[tokens]))
                y = y.index_add(0, tokens, answer * weights[tokens, slot, None])
        return y.view_as(hidden_states)

    def imbalance(self) -> Tensor:
        """N sum_e f_e P_e of the last call: f the share of slots at e, P the mean probability; 1 if even."""
        assert self.told is not None
        index, p = self.told
        share = torch.bincount(index.flatten(), minlength=len(self.experts)) / index.numel()
        return len(self.experts) * (share * p.mean(0)).sum()

    def shape(self) -> dict[str, float | int]:
        """What makes an empty one of the same form: see `like`."""
        return {"experts": len(self.experts), "top_k": self.top_k, "dropout": self.dropout.p}

    @classmethod
    def like(cls, mlp: Module, *, experts: int, top_k: int, dropout: float = 0.0) -> MixedMLP:
        """A mixture of copies of one feed-forward."""
        return cls([deepcopy(mlp) for _ in range(experts)], width_of(mlp), top_k, dropout)


def plain_mlps(model: Module) -> dict[str, Module]:
    """Path -> every feed-forward d -> f -> d of two linear layers, in the order of the modules.

    That is a module whose only children with parameters are two linear layers, the second undoing the shape of the
    first.
    """
    return {name: module for name, module in model.named_modules() if name and width_of(module)}


def width_of(module: Module) -> int:
    """The width d of a feed-forward d -> f -> d; 0 if the module is none."""
    parts = [c for c in module.children() if any(True for _ in c.parameters())]
    if len(parts) != 2 or any(True for _ in module.parameters(recurse=False)):
        return 0
    first, second = parts
    if not (isinstance(first, Linear) and isinstance(second, Linear)):
        return 0
    fits = (first.in_features, first.out_features) == (second.out_features, second.in_features)
    return first.in_features if fits and first.in_features != first.out_features else 0
