"""S2-SAM: perturb by the last step's gradient, so that a step needs one pass.

Ji, Li, Fu, Afghah, Guo, Yuan, Ma, "A Single-Step, Sharpness-Aware Minimization is All You Need to Achieve Efficient
and Accurate Sparse Training", NeurIPS 2024.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer

from ..paper import Paper
from ._sharpness import Closure, Sharpness, check_rho, every_parameter, norm


class S2SAM(Sharpness):
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
        InputError: if rho is negative or not finite, or `step` gets no closure.
    """

    paper: ClassVar[Paper] = Paper(
        "A Single-Step, Sharpness-Aware Minimization is All You Need to Achieve Efficient and Accurate Sparse Training",
        "Ji, Li, Fu, Afghah, Guo, Yuan, Ma", "NeurIPS", 2024, "",
    )  # fmt: skip

    def __init__(
        self, params: Iterable[Any], base: Callable[..., Optimizer] = SGD, *, rho: float = 0.05, foreach: bool = True,
        **keywords: Any,
    ) -> None:  # fmt: skip
        check_rho("S2SAM", rho)
        super().__init__(params, base, settings={"rho": rho}, foreach=foreach, **keywords)

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> Tensor:  # type: ignore[override]
        """Perturb by the last gradient, look once, step."""
        again = self.needed(closure)
        weights = [p for p in every_parameter(self.param_groups) if "last" in self.state[p]]
        self.keep(weights)
        last = [self.state[p]["last"].masked_fill((p == 0) & (p.ndim > 1), 0) for p in weights]
        length = norm(last)
        if length > 0:
            rho = {id(p): g["rho"] for g in self.param_groups for p in g["params"]}
            self.move(weights, last, [rho[id(p)] / (length + 1e-12) for p in weights])
        try:
            loss = self.gradient(again)
        finally:
            self.restore()
        for p in self.trained():
            assert p.grad is not None
            if "last" in self.state[p]:
                self.state[p]["last"].copy_(p.grad)
            else:
                self.state[p]["last"] = p.grad.detach().clone()
        self.base.step()
        return loss
