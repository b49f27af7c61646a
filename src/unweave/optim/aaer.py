"""AAER: keep single-step adversarial training from forgetting multi-step attacks.

Lin, Yu, Liu, "Eliminating Catastrophic Overfitting Via Abnormal Adversarial Examples Regularization", NeurIPS 2023,
arXiv 2404.08154: examples whose loss falls under attack are abnormal; their number, their loss and how much more their
logits move than others' are penalised.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import Module

from ..errors import InputError
from ..paper import Paper
from ..settings import Count, NonNegative, Number, Positive, checked, settings
from ..tasks import Perturbing, requires
from ..types import Batch, Data


@dataclass
class Watch:
    """What each step saw; the share of abnormal examples is the early warning of catastrophic overfitting.

    Attributes:
        abnormal: share of the batch's examples that were abnormal, one a step.
        moved_abnormal: V_A, mean squared change of their logits; 0 where there was none.
        moved_normal: V_N, the same of the others.
    """

    abnormal: list[float] = field(default_factory=list)
    moved_abnormal: list[float] = field(default_factory=list)
    moved_normal: list[float] = field(default_factory=list)


@settings
class AAER:
    """Single-step adversarial training with the penalty on abnormal adversarial examples.

    `objective(data)` is an objective for `fit_`; it costs what single-step training costs. The gradient of the penalty
    on losses flows through the loss under attack, as a regulariser's must; the authors' scripts cut it off there, so
    that only the penalty on logits acts: `ce_grad=False` does that. Both passes run in train mode, as published.

    Attributes:
        eps: budget in pixels' units (largest change of any pixel).
        attack: "rs" starts within the budget, steps by 1.25 eps and clips to it; "n" starts within twice the budget,
            steps by eps and does not clip.
        alpha: step; None is the attack's own.
        weight: lambda_1, of the whole penalty; 0 is plain single-step training.
        loss_weight: lambda_2, of the abnormal examples' fall in loss.
        logit_weight: lambda_3, of their excess movement of logits.
        ce_grad: whether the penalty on losses has a gradient.
        low: smallest pixel.
        high: largest pixel.
        mean: by channel, if inputs are standardised; else empty.
        std: by channel, if inputs are standardised; else empty.

    Raises:
        InputError: if a setting is out of its range, low is not below high, mean and std differ in length, or ce_grad
            is of a penalty that is off.
    """

    eps: Positive = 8 / 255
    attack: Literal["rs", "n"] = "rs"
    alpha: Positive | None = None
    weight: NonNegative = 1.0
    loss_weight: NonNegative = 2.5
    logit_weight: NonNegative = 1.5
    ce_grad: bool = True
    low: Number = 0.0
    high: Number = 1.0
    mean: tuple[Number, ...] = ()
    std: tuple[Positive, ...] = ()

    paper: ClassVar[Paper] = Paper(
        "Eliminating Catastrophic Overfitting Via Abnormal Adversarial Examples Regularization", "Lin, Yu, Liu",
        "NeurIPS", 2023, "2404.08154",
    )  # fmt: skip

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise InputError(f"AAER.low must be below high; got {self.low} and {self.high}.")
        if len(self.mean) != len(self.std):
            raise InputError(
                f"AAER.mean and std must have one number a channel; got {self.mean} and {self.std}."
            )
        off = next((name for name in ("weight", "loss_weight") if getattr(self, name) == 0), None)
        if off and not self.ce_grad:
            raise InputError(f"AAER.ce_grad does nothing where {off} is 0. Leave it out.")

    def objective(self, data: Data[Any], watch: Watch | None = None) -> Callable[[Module, Batch], Tensor]:
        """(model, batch) -> loss under attack plus penalty.

        Args:
            data: its task must be `Perturbing`.
            watch: notes what each step saw.

        Raises:
            InputError: if the task is not.
        """
        requires(data.task, Perturbing, "AAER")
        task = data.task

        def loss(model: Module, batch: Batch) -> Tensor:
            x, y = task.inputs(batch), task.labels(batch)
            z0, l0, delta = self.attacked(
                lambda at: task.outputs(model, task.replace_inputs(batch, at)), x, y
            )
            z1 = task.outputs(model, task.replace_inputs(batch, x + delta))
            l1 = F.cross_entropy(z1, y.to(z1.device), reduction="none")
            return l1.mean() + self.penalty(z0.detach(), z1, l0.detach(), l1, watch)

        return loss

    def attacked(
        self, answer: Callable[[Tensor], Tensor], x: Tensor, y: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits and losses at the random start, and the attack: a perturbation of x's shape, in x's units.

        Raises:
            InputError: if an input lies outside the box, or has other channels than mean and std.
        """
        scale, low, high = self._units(x)
        if bool((x < low - 1e-4).any()) or bool((x > high + 1e-4).any()):
            raise InputError(
                f"AAER: inputs lie outside [{self.low}, {self.high}]. Give low and high, or mean and std of the inputs."
            )
        eps = self.eps / scale
        reach = eps if self.attack == "rs" else 2 * eps
        start = (x + reach * (2 * torch.rand_like(x) - 1)).clamp(low, high) - x
        with torch.enable_grad():
            start.requires_grad_()
            z0 = answer(x + start)
            l0 = F.cross_entropy(z0, y.to(z0.device), reduction="none")
            slope = torch.autograd.grad(l0.mean(), start)[0]
        step = (1.25 if self.attack == "rs" else 1.0) * eps if self.alpha is None else self.alpha / scale
        delta = start.detach() + step * slope.sign()
        if self.attack == "rs":
            delta = delta.clamp(-eps, eps)
        return z0, l0, (x + delta).clamp(low, high) - x

    def penalty(self, z0: Tensor, z1: Tensor, l0: Tensor, l1: Tensor, watch: Watch | None = None) -> Tensor:
        """R = lambda_1 n_A / n [lambda_2 mean_A (l0 - l1) + lambda_3 max(V_A - V_N, 0)]; 0 without both kinds.

        Args:
            z0: logits at the start, constants, [n, classes].
            z1: logits under attack.
            l0: losses at the start, constants, [n].
            l1: losses under attack.
            watch: notes the share and the movements.
        """
        abnormal = (l0 > l1).detach()
        moved = (z1 - z0).square().sum(1)
        share, both = float(abnormal.float().mean()), bool(abnormal.any()) and not bool(abnormal.all())
        if watch is not None:
            watch.abnormal.append(share)
            watch.moved_abnormal.append(float(moved[abnormal].mean().detach()) if abnormal.any() else 0.0)
            watch.moved_normal.append(float(moved[~abnormal].mean().detach()) if not abnormal.all() else 0.0)
        if not both:
            return l1.sum() * 0
        fall = (l0 - (l1 if self.ce_grad else l1.detach()))[abnormal].mean()
        excess = (moved[abnormal].mean() - moved[~abnormal].mean().detach()).clamp(min=0)
        return self.weight * share * (self.loss_weight * fall + self.logit_weight * excess)

    def _units(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pixels' units a unit of x, and the box in x's units."""
        if len(self.std) > 1 and x.shape[1] != len(self.std):
            raise InputError(
                f"AAER.mean and std are of {len(self.std)} channels; the inputs have {x.shape[1]}."
            )
        shape = (1, -1, *[1] * (x.ndim - 2))
        std = x.new_tensor(self.std or (1.0,)).view(shape)
        mean = x.new_tensor(self.mean or (0.0,)).view(shape)
        return std, (self.low - mean) / std, (self.high - mean) / std


@checked
def pgd(
    answer: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    how: AAER,
    *,
    steps: Count = 10,
    alpha: Positive | None = None,
) -> Tensor:
    """Projected gradient descent within the same budget and box: the attack to evaluate with; returns x attacked."""
    scale, low, high = how._units(x)
    eps, step = how.eps / scale, (how.eps / 4 if alpha is None else alpha) / scale
    at = (x + eps * (2 * torch.rand_like(x) - 1)).clamp(low, high)
    for _ in range(steps):
        at = at.detach().requires_grad_()
        with torch.enable_grad():
            slope = torch.autograd.grad(F.cross_entropy(answer(at), y), at)[0]
        at = torch.max(torch.min(at.detach() + step * slope.sign(), x + eps), x - eps).clamp(low, high)
    return at.detach()
