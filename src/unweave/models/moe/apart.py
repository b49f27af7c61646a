"""Experts of which some are trained alone: no optimiser or weight decay reaches the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module, Parameter, ParameterDict


class HeldApart(Module):
    """Experts of which some have their matrices as parameters of their own.

    Args:
        experts: all of them, in one module.
        chosen: which are held apart.
    """

    def __init__(self, experts: Module, chosen: Sequence[int]) -> None:
        super().__init__()
        held = {n: p for n, p in experts.named_parameters(recurse=False)}
        count = next(len(p) for p in held.values() if p.ndim == 3)
        self.experts = experts
        self.at: Tensor
        self.register_buffer("at", torch.tensor(list(chosen)), persistent=False)
        self.own = ParameterDict({
            n: Parameter(p.detach()[list(chosen)].clone(), p.requires_grad)
            for n, p in held.items() if len(p) == count
        })  # fmt: skip

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the experts'."""
        whole = dict(self.experts.named_parameters(recurse=False))
        joined = {n: whole[n].index_copy(0, self.at.to(own.device), own) for n, own in self.own.items()}
        return torch.func.functional_call(self.experts, joined, args, kwargs)
