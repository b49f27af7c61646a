"""ESAM: perturb a random part of the weights.

Du, Yan, Feng, Zhou, Zhen, Goh, Tan, "Efficient Sharpness-aware Minimization for Improved Training of Neural Networks",
ICLR 2022, arXiv 2110.03141, section 3.1, stochastic weight perturbation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated, Any, ClassVar, final

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer

from ..paper import Paper
from ..random import seeded
from ..settings import Range, Whole, checked
from .two_pass import Rho, climb_, come_back_, two_passes
from .vectors import norm
from .wrapper import Closure, Wrapper


@final
class ESAM(Wrapper):
    """SAM that perturbs each weight with probability beta, by 1/beta as much.

    Only the first half of the paper: its second half trains the second pass on the samples whose loss rose most, which
    needs the loss of each example, where torch's closure returns one number. Weights are drawn one by one, as the paper
    says; its code draws whole tensors. It costs what SAM costs; the paper's saving comes from tensors whose gradients
    are not computed.

    Args:
        params: parameters or groups; a group may have its own `rho`.
        base: makes the optimiser that steps.
        rho: radius of the perturbation.
        beta: probability that a weight is perturbed; 1 is SAM.
        seed: of the draws; step t draws from seed and t alone.
        foreach: move all tensors at once.
        keywords: for the base, such as lr and momentum.

    Raises:
        InputError: if a setting is out of its range, or `step` gets no closure.
    """

    paper: ClassVar[Paper] = Paper(
        "Efficient Sharpness-aware Minimization for Improved Training of Neural Networks",
        "Du, Yan, Feng, Zhou, Zhen, Goh, Tan", "ICLR", 2022, "2110.03141",
    )  # fmt: skip

    @checked
    def __init__(
        self, params: Iterable[Any], base: Callable[..., Optimizer] = SGD, *, rho: Rho = 0.05,
        beta: Annotated[float, Range(above=0, at_most=1, why="It is the share of weights perturbed.")] = 0.6,
        seed: Whole = 0, foreach: bool = True, **keywords: Any,
    ) -> None:  # fmt: skip
        super().__init__(params, base, keywords, rho=rho, foreach=foreach)
        self.beta, self.seed = beta, seed

    def step(self, closure: Closure | None = None) -> Tensor:  # type: ignore[override]
        """Perturb a random part, look again, step.

        Returns:
            The loss at the weights before the step.
        """
        return two_passes(self, closure, self.first_step, self.second_step)

    @torch.no_grad()
    def first_step(self) -> None:
        """Move a random part of the weights, by the gradients that are there."""
        self.passed()
        weights = self.trained()
        gradients = self.gradients(weights)
        climb_(self, weights, self._part(gradients), norm(gradients, foreach=self.foreach))

    @torch.no_grad()
    def second_step(self) -> None:
        """Go back to the weights before `first_step` and step by the gradients that are there now."""
        come_back_(self)
        self.base.step()

    def _part(self, gradients: list[Tensor]) -> list[Tensor]:
        """What is drawn of them, by 1/beta as much."""
        if self.beta == 1:
            return gradients
        rng = seeded(self.seed + self.backwards)
        drawn = [(torch.rand(g.shape, generator=rng) < self.beta).to(g.device) for g in gradients]
        return [g.masked_fill(~kept, 0) / self.beta for g, kept in zip(gradients, drawn, strict=True)]
