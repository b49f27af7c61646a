"""LookSAM: SAM every k-th step; in between, the direction it found is used again.

Liu, Mai, Chen, Hsieh, You, "Towards Efficient and Scalable Sharpness-Aware Minimization", CVPR 2022, arXiv 2203.02714,
algorithm 1: g_v is the part of SAM's gradient orthogonal to g; other steps use g + alpha (||g|| / ||g_v||) g_v.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer

from ..errors import InputError
from ..paper import Paper
from ._sharpness import Closure, Sharpness, check_rho, copies, dot, norm


class LookSAM(Sharpness):
    """SAM at 1 + 1/k of the base optimiser's price.

    The projection is over all parameters as one vector, as in the paper; `pytorch_optimizer.LookSAM` (4.1) projects
    each tensor by itself.

    Args:
        params: parameters or groups; a group may have its own `rho`.
        base: makes the optimiser that steps.
        rho: radius of the perturbation.
        k: SAM is done at every k-th step, the first included; the paper uses 5 and 10.
        alpha: weight of the direction in between; the paper uses 0.7, which held a small pruned network at chance where
            0.1 served it well.
        foreach: move all tensors at once.
        keywords: for the base, such as lr and momentum.

    Raises:
        InputError: if rho is negative or k below 1, or `step` gets no closure.
    """

    paper: ClassVar[Paper] = Paper(
        "Towards Efficient and Scalable Sharpness-Aware Minimization", "Liu, Mai, Chen, Hsieh, You", "CVPR", 2022,
        "2203.02714",
    )  # fmt: skip

    def __init__(
        self, params: Iterable[Any], base: Callable[..., Optimizer] = SGD, *, rho: float = 0.05, k: int = 5,
        alpha: float = 0.7, foreach: bool = True, **keywords: Any,
    ) -> None:  # fmt: skip
        if k < 1:
            raise InputError(f"LookSAM: k must be at least 1; got {k}. SAM is done at every k-th step.")
        check_rho("LookSAM", rho)
        super().__init__(params, base, settings={"rho": rho}, foreach=foreach, **keywords)
        self.k, self.alpha = k, alpha

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> Tensor:  # type: ignore[override]
        """SAM's step, or one along the remembered direction."""
        again = self.needed(closure)
        loss = self.gradient(again)
        weights = self.trained()
        done = next((int(self.state[p]["step"]) for p in weights if "step" in self.state[p]), 0)
        if done % self.k == 0:
            self._look(again, weights)
        else:
            self._reuse(weights)
        for p in weights:
            self.state[p]["step"] = torch.tensor(float(done + 1))
        self.base.step()
        return loss

    def _look(self, closure: Closure, weights: list[Tensor]) -> None:
        clean = copies(p.grad for p in weights if p.grad is not None)
        self.perturb()
        try:
            self.gradient(closure)
        finally:
            self.restore()
        perturbed = [p.grad for p in weights if p.grad is not None]
        square = dot(clean, clean)
        along = dot(perturbed, clean) / square if square else 0.0
        for p, here, there in zip(weights, clean, perturbed, strict=True):
            self.state[p]["apart"] = there - along * here

    def _reuse(self, weights: list[Tensor]) -> None:
        known = [p for p in weights if "apart" in self.state[p] and p.grad is not None]
        gradients = [p.grad for p in known if p.grad is not None]
        # a mask may have changed since
        apart = [self.state[p]["apart"].masked_fill((p.grad == 0) & (p == 0), 0) for p in known]
        length = norm(apart)
        if length > 0:
            scale = self.alpha * norm(p.grad for p in weights if p.grad is not None) / length
            self.move(gradients, apart, [scale] * len(known))
