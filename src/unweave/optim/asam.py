"""ASAM: SAM with a neighbourhood that follows the scale of each weight.

Kwon, Kim, Park, Choi, "ASAM: Adaptive Sharpness-Aware Minimization for Scale-Invariant Learning of Deep Neural
Networks", ICML 2021, arXiv 2102.11600, eq. 8: eps = rho T^2 g / ||T g|| with T = diag(|w| + eta).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated, Any, ClassVar, final

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer

from ..paper import Paper
from ..settings import Range, checked
from .two_pass import Rho, climb_, come_back_, two_passes
from .vectors import norm
from .wrapper import Closure, Wrapper


@final
class ASAM(Wrapper):
    """SAM whose perturbation of a weight is in proportion to the weight.

    T = |w| + eta for tensors of two and more dimensions (weights of layers), and 1 for all others (biases, norms), as
    the authors' code does by name. Ports with `adaptive=True` use |w| alone on everything: a weight of zero is then
    never perturbed, which eta is there to prevent. Dead weights of a mask have no gradient and stay.

    Args:
        params: parameters or groups; a group may have its own `rho`.
        base: makes the optimiser that steps.
        rho: radius; the paper uses 0.5 (CIFAR-10) and 1.0 (CIFAR-100), ten to twenty times SAM's.
        eta: added to |w|.
        foreach: move all tensors at once.
        keywords: for the base, such as lr and momentum.

    Raises:
        InputError: if a setting is out of its range, or `step` gets no closure.
    """

    paper: ClassVar[Paper] = Paper(
        "ASAM: Adaptive Sharpness-Aware Minimization for Scale-Invariant Learning of Deep Neural Networks",
        "Kwon, Kim, Park, Choi", "ICML", 2021, "2102.11600",
    )  # fmt: skip

    @checked
    def __init__(
        self, params: Iterable[Any], base: Callable[..., Optimizer] = SGD, *, rho: Rho = 0.5,
        eta: Annotated[float, Range(at_least=0, why="It is added to the size of each weight.")] = 0.01,
        foreach: bool = True, **keywords: Any,
    ) -> None:  # fmt: skip
        super().__init__(params, base, keywords, rho=rho, foreach=foreach)
        self.eta = eta

    def step(self, closure: Closure | None = None) -> Tensor:  # type: ignore[override]
        """Perturb in proportion to the weights, look again, step.

        Returns:
            The loss at the weights before the step.
        """
        return two_passes(self, closure, self.first_step, self.second_step)

    @torch.no_grad()
    def first_step(self) -> None:
        """Move to the perturbed weights, by the gradients that are there."""
        weights = self.trained()
        sizes = [w.abs() + self.eta if w.ndim > 1 else None for w in weights]
        scaled = [g if t is None else t * g for t, g in zip(sizes, self.gradients(weights), strict=True)]
        squared = [s if t is None else t * s for t, s in zip(sizes, scaled, strict=True)]
        climb_(self, weights, squared, norm(scaled, foreach=self.foreach))

    @torch.no_grad()
    def second_step(self) -> None:
        """Go back to the weights before `first_step` and step by the gradients that are there now."""
        come_back_(self)
        self.base.step()
