"""GSAM: close the gap between the loss at the worst point nearby and the loss here.

Zhuang, Gong, Yuan, Cui, Adam, Dvornek, Tatikonda, Duncan, Liu, "Surrogate Gap Minimization Improves Sharpness-Aware
Training", ICLR 2022, arXiv 2203.08065, algorithm 1: step by g' - alpha g_perp, where g_perp is the part of g that is
orthogonal to g', the gradient at the perturbed weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer

from ..errors import InputError
from ..paper import Paper
from ._sharpness import copies, dot
from .sam import SAM


class GSAM(SAM):
    """SAM that also ascends along what of the plain gradient is orthogonal to the perturbed one.

    The radius follows the learning rate: rho_min + (rho - rho_min) (lr - lr_min) / (lr_max - lr_min), with lr_max the
    learning rate at the start; it stays rho while rho_min is None.

    Args:
        params: parameters or groups; a group may have its own `rho`.
        base: makes the optimiser that steps.
        rho: largest radius.
        alpha: weight of the orthogonal part; 0 is SAM.
        rho_min: radius at the smallest learning rate; None keeps `rho` constant.
        lr_min: smallest learning rate of the schedule.
        foreach: move all tensors at once.
        keywords: for the base, such as lr and momentum.

    Raises:
        InputError: if rho is negative, rho_min is above it, or `step` gets no closure.
    """

    paper: ClassVar[Paper] = Paper(
        "Surrogate Gap Minimization Improves Sharpness-Aware Training",
        "Zhuang, Gong, Yuan, Cui, Adam, Dvornek, Tatikonda, Duncan, Liu", "ICLR", 2022, "2203.08065",
    )  # fmt: skip

    def __init__(
        self, params: Iterable[Any], base: Callable[..., Optimizer] = SGD, *, rho: float = 0.05, alpha: float = 0.4,
        rho_min: float | None = None, lr_min: float = 0.0, foreach: bool = True, **keywords: Any,
    ) -> None:  # fmt: skip
        if rho_min is not None and not 0 <= rho_min <= rho:
            raise InputError(f"GSAM: rho_min must be in [0, {rho}], the largest radius; got {rho_min}.")
        super().__init__(params, base, rho=rho, foreach=foreach, **keywords)
        self.alpha, self.rho_min, self.lr_min = alpha, rho_min, lr_min
        self._clean: list[tuple[Tensor, Tensor]] = []
        for group in self.param_groups:
            group.setdefault("lr_max", group["lr"])

    def rhos(self) -> list[float]:
        """Radii, as the learning rates have them."""
        if self.rho_min is None:
            return super().rhos()
        found = []
        for group in self.param_groups:
            share = (group["lr"] - self.lr_min) / max(group["lr_max"] - self.lr_min, 1e-12)
            rho = self.rho_min + (group["rho"] - self.rho_min) * share
            found += [rho for p in group["params"] if p.grad is not None]
        return found

    @torch.no_grad()
    def first_step(self) -> None:
        """Keep the plain gradient and move to the perturbed weights."""
        weights = self.trained()
        self._clean = list(zip(weights, copies(_gradients(weights)), strict=True))
        super().first_step()

    def combine(self) -> None:
        """From g' take alpha times the part of g that is orthogonal to it."""
        weights, clean = [p for p, _ in self._clean], [g for _, g in self._clean]
        self._clean = []
        perturbed = _gradients(weights)
        square = dot(perturbed, perturbed)
        if square > 0 and self.alpha:
            along = dot(clean, perturbed) / square
            # g' - alpha (g - along g')
            torch._foreach_mul_(perturbed, 1 + self.alpha * along)
            self.move(perturbed, clean, [-self.alpha] * len(clean))


def _gradients(weights: list[Tensor]) -> list[Tensor]:
    return [p.grad for p in weights if p.grad is not None]
