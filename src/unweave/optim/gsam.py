"""GSAM: close the gap between the loss at the worst point nearby and the loss here.

Zhuang, Gong, Yuan, Cui, Adam, Dvornek, Tatikonda, Duncan, Liu, "Surrogate Gap Minimization Improves Sharpness-Aware
Training", ICLR 2022, arXiv 2203.08065, algorithm 1: step by g' - alpha g_perp, where g_perp is the part of g that is
orthogonal to g', the gradient at the perturbed weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar, final

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer

from ..errors import InputError
from ..paper import Paper
from ..settings import NonNegative, checked
from .two_pass import Rho, climb_, come_back_, two_passes
from .vectors import copies, dot, norm, shift_
from .wrapper import Closure, Wrapper


@final
class GSAM(Wrapper):
    """SAM that also ascends along what of the plain gradient is orthogonal to the perturbed one.

    The radius follows the learning rate: rho_min + (rho - rho_min) (lr - lr_min) / (lr_max - lr_min), with lr_max the
    learning rate at the start, and rho_min below lr_min; it stays rho while rho_min is None.

    Args:
        params: parameters or groups; a group may have its own `rho`.
        base: makes the optimiser that steps.
        rho: largest radius.
        alpha: weight of the orthogonal part; 0 is SAM.
        rho_min: radius at the smallest learning rate; None keeps `rho` constant.
        lr_min: smallest learning rate of the schedule; below the one at the start.
        foreach: move all tensors at once.
        keywords: for the base, such as lr and momentum.

    Raises:
        InputError: if a setting is out of its range, rho_min is above rho, lr_min is not below lr or has no rho_min to
            go with, or `step` gets no closure.
    """

    paper: ClassVar[Paper] = Paper(
        "Surrogate Gap Minimization Improves Sharpness-Aware Training",
        "Zhuang, Gong, Yuan, Cui, Adam, Dvornek, Tatikonda, Duncan, Liu", "ICLR", 2022, "2203.08065",
    )  # fmt: skip

    @checked
    def __init__(
        self, params: Iterable[Any], base: Callable[..., Optimizer] = SGD, *, rho: Rho = 0.05, alpha: NonNegative = 0.4,
        rho_min: Rho | None = None, lr_min: NonNegative = 0.0, foreach: bool = True, **keywords: Any,
    ) -> None:  # fmt: skip
        super().__init__(params, base, keywords, rho=rho, foreach=foreach)
        self.alpha, self.rho_min, self.lr_min = alpha, rho_min, lr_min
        self._clean: list[tuple[Tensor, Tensor]] = []
        if lr_min and rho_min is None:
            raise InputError(f"GSAM.lr_min does nothing without rho_min; got {lr_min}. Give rho_min too.")
        for group in self.param_groups:
            group.setdefault("lr_max", group["lr"])
            if rho_min is not None and rho_min > group["rho"]:
                raise InputError(
                    f"GSAM.rho_min must be at most rho, the largest radius, {group['rho']}; got {rho_min}."
                )
            if lr_min and lr_min >= group["lr"]:
                raise InputError(
                    f"GSAM.lr_min must be below lr, the largest learning rate, {group['lr']}; got {lr_min}."
                )

    def step(self, closure: Closure | None = None) -> Tensor:  # type: ignore[override]
        """Perturb, look again, step by both gradients.

        Returns:
            The loss at the weights before the step.
        """
        return two_passes(self, closure, self.first_step, self.second_step)

    @torch.no_grad()
    def first_step(self) -> None:
        """Keep the plain gradients and move to the perturbed weights."""
        weights = self.trained()
        gradients = self.gradients(weights)
        self._clean = list(zip(weights, copies(gradients), strict=True))
        climb_(self, weights, gradients, norm(gradients, foreach=self.foreach), radii=self.radii())

    @torch.no_grad()
    def second_step(self) -> None:
        """From g' at the perturbed weights take alpha times the part of g orthogonal to it, and step at the weights."""
        come_back_(self)
        kept, self._clean = self._clean, []
        clean, perturbed = [g for _, g in kept], self.gradients([p for p, _ in kept])
        square = dot(perturbed, perturbed)
        if square > 0 and self.alpha:
            along = dot(clean, perturbed) / square
            # g' - alpha (g - along g'); one by one it would be rounded otherwise in half precision
            torch._foreach_mul_(perturbed, 1 + self.alpha * along)
            shift_(perturbed, clean, [-self.alpha] * len(clean), foreach=self.foreach)
        self.base.step()

    def radii(self) -> list[float]:
        """Radius of each parameter with a gradient, as its learning rate has it."""
        return [self._radius(g) for g in self.param_groups for p in g["params"] if p.grad is not None]

    def _radius(self, group: dict[str, Any]) -> float:
        rho: float = group["rho"]
        if self.rho_min is None:
            return rho
        most: float = group.setdefault("lr_max", group["lr"])
        share: float = (group["lr"] - self.lr_min) / max(most - self.lr_min, 1e-12)
        return self.rho_min + (rho - self.rho_min) * max(share, 0.0)
