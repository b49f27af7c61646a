"""SAM: descend by the gradient at the worst point nearby.

Foret, Kleiner, Mobahi, Neyshabur, "Sharpness-Aware Minimization for Efficiently Improving Generalization", ICLR 2021,
arXiv 2010.01412, algorithm 1 with eq. 2 for p = 2: eps = rho g / ||g||, the step uses the gradient at w + eps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar, final

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer

from ..paper import Paper
from ..settings import checked
from .two_pass import Rho, climb_, come_back_, two_passes
from .vectors import norm
from .wrapper import Closure, Wrapper


@final
class SAM(Wrapper):
    """Step by the gradient at w + rho g / ||g||: two forward and two backward passes.

    All parameters with a gradient are one vector. A gradient of zero moves nothing in the first pass; rho = 0 is the
    base optimiser, bit for bit, at twice its price. Weights are restored from a copy, not by subtracting.
    `pytorch_optimizer.SAM` (4.1) computes the same update, but wants gradients to be there before `step`, which torch's
    own contract does not give it.

    Args:
        params: parameters or groups; a group may have its own `rho`.
        base: makes the optimiser that steps, called with the parameters and the further keywords.
        rho: radius of the perturbation; the paper uses 0.05.
        foreach: move all tensors at once; False goes one by one, with the same bits.
        keywords: for the base, such as lr and momentum.

    Raises:
        InputError: if a setting is out of its range, or `step` gets no closure.
    """

    paper: ClassVar[Paper] = Paper(
        "Sharpness-Aware Minimization for Efficiently Improving Generalization",
        "Foret, Kleiner, Mobahi, Neyshabur", "ICLR", 2021, "2010.01412",
    )  # fmt: skip

    @checked
    def __init__(
        self, params: Iterable[Any], base: Callable[..., Optimizer] = SGD, *, rho: Rho = 0.05, foreach: bool = True,
        **keywords: Any,
    ) -> None:  # fmt: skip
        super().__init__(params, base, keywords, rho=rho, foreach=foreach)

    def step(self, closure: Closure | None = None) -> Tensor:  # type: ignore[override]
        """Perturb, look again, step.

        Returns:
            The loss at the weights before the step.
        """
        return two_passes(self, closure, self.first_step, self.second_step)

    @torch.no_grad()
    def first_step(self) -> None:
        """Move to the perturbed weights, by the gradients that are there; for loops that call backward themselves."""
        weights = self.trained()
        gradients = self.gradients(weights)
        climb_(self, weights, gradients, norm(gradients, foreach=self.foreach))

    @torch.no_grad()
    def second_step(self) -> None:
        """Go back to the weights before `first_step` and step by the gradients that are there now."""
        come_back_(self)
        self.base.step()
