"""Vectors in the place of tokens, found by gradient: what an attack and a defence against it share."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.optim import Adam


def descend(
    vectors: Tensor, errors: Callable[[Tensor], Iterable[Tensor]], *, steps: int, lr: float
) -> Tensor:
    """Steps of Adam on vectors; it stops where an error is no longer finite, and hands back the last that were.

    Args:
        vectors: to begin with, [n, k, width]; left unchanged.
        errors: of vectors, in parts of any shape, which are summed; each part's graph is let go before the next is
            asked for. May draw other examples at each call.
        steps: of Adam.
        lr: of Adam.

    Returns:
        The vectors, without a graph.
    """
    found = vectors.detach().clone().requires_grad_()
    adam = Adam([found], lr=lr)
    with torch.enable_grad():
        for _ in range(steps):
            slope = torch.zeros_like(found)
            for part in errors(found):
                slope += torch.autograd.grad(part.sum(), found)[0]
            if not torch.isfinite(slope).all():
                break
            found.grad = slope
            adam.step()
    return found.detach()
