"""Muon: momentum made orthogonal, for every matrix; Adam for the rest. What heals a network in few steps.

K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024,
https://kellerjordan.github.io/posts/muon. With momentum m <- mu m + g, a matrix [rows, columns] moves by
-lr sqrt(max(1, rows / columns)) NS(g + mu m), where NS brings all singular values near 1.

torch.optim.Muon has the same constants and scale, but takes two-dimensional parameters alone, leaves all others to
a second optimiser, and orthogonalises in bfloat16. Here one optimiser holds both groups, convolutions are
flattened to [out, rest], and every number stays in the weights' own type. There is no weight decay: whoever wants
some fades the weights beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic: they lift small singular values fast, and leave all of them between about 0.7 and 1.2."""


class Muon(Optimizer):
    """Muon on every parameter of two or more dimensions, Adam on all others; a schedule scales both alike.

    Args:
        params: parameters of one model.
        lr: learning rate of the matrices.
        adam_lr: learning rate of the others.
        momentum: mu.
        newton_schulz: iterations that make the momentum orthogonal.
        betas: of Adam.
        eps: of Adam.
    """

    def __init__(
        self,
        params: Iterable[Parameter],
        lr: float = 0.1,
        *,
        adam_lr: float = 0.01,
        momentum: float = 0.9,
        newton_schulz: int = 5,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
    ) -> None:
        given = list(params)
        parts = (
            {"params": [p for p in given if p.ndim > 1], "lr": lr, "orthogonal": True},
            {"params": [p for p in given if p.ndim < 2], "lr": adam_lr, "orthogonal": False},
        )
        super().__init__(
            [part for part in parts if part["params"]],
            {"momentum": momentum, "newton_schulz": newton_schulz, "betas": betas, "eps": eps},
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            move_ = _orthogonal_ if group["orthogonal"] else _adam_
            for parameter in group["params"]:
                if parameter.grad is not None:
                    move_(parameter, parameter.grad, self.state[parameter], group)
        return loss


def _orthogonal_(weight: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    mu = group["momentum"]
    momentum = state.setdefault("momentum", torch.zeros_like(weight)).mul_(mu).add_(gradient)
    flat = gradient.add(momentum, alpha=mu).flatten(1)
    rows, columns = flat.shape
    update = newton_schulz(flat, group["newton_schulz"]).view(weight.shape)
    weight.add_(update, alpha=-group["lr"] * max(1, rows / columns) ** 0.5)


def _adam_(weight: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    first, second = group["betas"]
    state["steps"] = n = state.get("steps", 0) + 1
    mean = state.setdefault("mean", torch.zeros_like(weight)).lerp_(gradient, 1 - first)
    square = state.setdefault("square", torch.zeros_like(weight)).mul_(second)
    square.addcmul_(gradient, gradient, value=1 - second)
    size = (square / (1 - second**n)).sqrt_().add_(group["eps"])
    weight.addcdiv_(mean, size, value=-group["lr"] / (1 - first**n))


def newton_schulz(matrix: Tensor, iterations: int) -> Tensor:
    """Bring the singular values of a matrix [rows, columns] near 1, its singular vectors as they are.

    X <- a X + (b A + c A^2) X with A = X X^T, from X = matrix / |matrix|_F. A matrix of zeros stays one.

    Example:
        >>> newton_schulz(torch.diag(torch.tensor([3.0, 1.0])), 5).round()
        tensor([[1., 0.],
                [0., 1.]])
    """
    a, b, c = COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x: Tensor = matrix.mT if tall else matrix
    x = x / x.norm().clamp_min(torch.finfo(x.dtype).tiny)
    for _ in range(iterations):
        gram = x @ x.mT
        x = a * x + torch.addmm(gram, gram, gram, beta=b, alpha=c) @ x
    return x.mT if tall else x
