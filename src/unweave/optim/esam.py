"""ESAM: perturb a random part of the weights.

Du, Yan, Feng, Zhou, Zhen, Goh, Tan, "Efficient Sharpness-aware Minimization for Improved Training of Neural Networks",
ICLR 2022, arXiv 2110.03141, section 3.1, stochastic weight perturbation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer

from ..errors import InputError
from ..paper import Paper
from ..random import seeded
from ._sharpness import norm
from .sam import SAM


class ESAM(SAM):
    """SAM that perturbs each weight with probability beta, by 1/beta as much.

    Only the first half of the paper: its second half trains the second pass on the samples whose loss rose most, which
    needs the loss of each example, where torch's closure returns one number. Weights are drawn one by one, as the paper
    says; its code draws whole tensors. It costs what SAM costs; the paper's saving comes from tensors whose gradients
    are not computed.

    Args:
        params: parameters or groups; a group may have its own `rho`.
        base: makes the optimiser that steps.
        rho: radius of the perturbation.
        beta: probability that a weight is perturbed, in (0, 1]; 1 is SAM.
        seed: of the draws; step t draws from seed and t alone.
        foreach: move all tensors at once.
        keywords: for the base, such as lr and momentum.

    Raises:
        InputError: if rho is negative or beta outside (0, 1], or `step` gets no closure.
    """

    paper: ClassVar[Paper] = Paper(
        "Efficient Sharpness-aware Minimization for Improved Training of Neural Networks",
        "Du, Yan, Feng, Zhou, Zhen, Goh, Tan", "ICLR", 2022, "2110.03141",
    )  # fmt: skip

    def __init__(
        self, params: Iterable[Any], base: Callable[..., Optimizer] = SGD, *, rho: float = 0.05, beta: float = 0.6,
        seed: int = 0, foreach: bool = True, **keywords: Any,
    ) -> None:  # fmt: skip
        if not 0 < beta <= 1:
            raise InputError(
                f"ESAM: beta must be in (0, 1]; got {beta}. It is the share of weights perturbed."
            )
        super().__init__(params, base, rho=rho, foreach=foreach, **keywords)
        self.beta, self.seed = beta, seed

    def ascent(self, weights: list[Tensor]) -> tuple[list[Tensor], float]:
        """A random part of g, by 1/beta as much, and ||g||."""
        gradients = [w.grad for w in weights if w.grad is not None]
        if self.beta == 1:
            return gradients, norm(gradients)
        rng = seeded(self.seed + self.backwards)
        drawn = [(torch.rand(g.shape, generator=rng) < self.beta).to(g.device) for g in gradients]
        part = [g.masked_fill(~kept, 0) / self.beta for g, kept in zip(gradients, drawn, strict=True)]
        return part, norm(gradients)
