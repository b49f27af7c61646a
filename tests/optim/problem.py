"""A small float64 problem with a loss that is not quadratic, and its gradients by autograd."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from unweave import seeded


def parameters(seed: int = 0) -> list[Tensor]:
    rng = seeded(seed)
    shapes = [(4, 3), (4,), (2, 4)]
    return [torch.randn(s, generator=rng, dtype=torch.float64).requires_grad_() for s in shapes]


_X = torch.randn(12, 3, generator=seeded(5), dtype=torch.float64)
_Y = torch.arange(12) % 2


def loss_at(weights: Sequence[Tensor]) -> Tensor:
    hidden = torch.tanh(_X @ weights[0].T + weights[1])
    return torch.nn.functional.cross_entropy(hidden @ weights[2].T, _Y)


def gradient_at(weights: Sequence[Tensor]) -> list[Tensor]:
    at = [w.detach().clone().requires_grad_() for w in weights]
    return list(torch.autograd.grad(loss_at(at), at))


def closure_of(weights: Sequence[Tensor]) -> Callable[[], Tensor]:
    def closure() -> Tensor:
        if torch.is_grad_enabled():
            for w in weights:
                w.grad = None
        loss = loss_at(weights)
        if loss.requires_grad:
            loss.backward()
        return loss

    return closure


def size(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([t.flatten() for t in tensors]).norm()


def assert_near(got: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a.detach(), b.detach(), rtol=1e-9, atol=1e-12)
