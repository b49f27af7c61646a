"""S2-SAM: perturb by the last step's gradient, so that a step needs one pass.

Ji, Li, Fu, Afghah, Guo, Yuan, Ma, "A Single-Step, Sharpness-Aware Minimization is All You Need to Achieve Efficient
and Accurate Sparse Training", NeurIPS 2024.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar, final

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer

from ..paper import Paper
from ..settings import checked
from .two_pass import Rho
from .vectors import norm, shift_
from .wrapper import Closure, Wrapper


@final
class S2SAM(Wrapper):
    """SAM at the base optimiser's price: eps = rho g / ||g|| with g from the step before.

    The first step perturbs nothing. Weights that died since the last step (their value is zero in a tensor of two and
    more dimensions) are left out of the perturbation. The loss returned is the one at the perturbed weights: the clean
    one is never computed.

    Args:
        params: parameters or groups; a group may have its own `rho`.
        base: makes the optimiser that steps.
        rho: radius of the perturbation; keep it small, the direction is a step old.
        foreach: move all tensors at once.
        keywords: for the base, such as lr and momentum.

    Raises:
        InputError: if a setting is out of its range, or `step` gets no closure.
    """

    paper: ClassVar[Paper] = Paper(
        "A Single-Step, Sharpness-Aware Minimization is All You Need to Achieve Efficient and Accurate Sparse Training",
        "Ji, Li, Fu, Afghah, Guo, Yuan, Ma", "NeurIPS", 2024, "",
    )  # fmt: skip

    @checked
    def __init__(
        self, params: Iterable[Any], base: Callable[..., Optimizer] = SGD, *, rho: Rho = 0.05, foreach: bool = True,
        **keywords: Any,
    ) -> None:  # fmt: skip
        super().__init__(params, base, keywords, rho=rho, foreach=foreach)

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> Tensor:  # type: ignore[override]
        """Perturb by the last gradient, look once, step.

        Returns:
            The loss at the perturbed weights.
        """
        again = self.needed(closure)
        self._climb()
        try:
            loss = self.gradient(again)
        finally:
            self.restore()
        self.remember(self.trained())
        self.base.step()
        return loss

    def _climb(self) -> None:
        known = [
            (p, group["rho"])
            for group in self.param_groups
            for p in group["params"]
            if p.requires_grad and "last" in self.state[p]
        ]
        weights = [p for p, _ in known]
        self.keep(weights)
        last = [self.state[p]["last"].masked_fill((p == 0) & (p.ndim > 1), 0) for p in weights]
        length = norm(last, foreach=self.foreach)
        if length > 0:
            shift_(weights, last, [rho / (length + 1e-12) for _, rho in known], foreach=self.foreach)
