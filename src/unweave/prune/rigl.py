"""RigL: drop the smallest weights, grow those whose gradient is largest.

Evci, Gale, Menick, Castro, Elsen, "Rigging the Lottery: Making All Tickets Winners", ICML 2020, arXiv 1911.11134,
section 3: every dT steps a share zeta / 2 (1 + cos(pi t / T_end)) of each layer's weights is exchanged.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Generator, Tensor
from torch.nn import Module, Parameter

from ..fit import Step
from ..masks.budgets import ERK, Global, Uniform
from ..masks.mask import Mask
from ..masks.scope import Scope
from ..paper import Paper
from ..types import Data
from ._dynamic import check, cosine, due, exchange, lowest, start


@dataclass(frozen=True, kw_only=True)
class RigL:
    """Train sparsely from the start: dead weights with a large gradient take the places of small living ones.

    For `Supervised(sparse=RigL(...))`. Gradients are dense ones on the step's batch, over all processes, at one more
    forward and backward pass an exchange; the paper puts the exchange in place of that step's update, here it follows
    it. Weights just dropped may be grown again and then keep their value; others start at zero with no momentum.

    Attributes:
        budget: how many weights live, and where; the model's own mask is kept if it is sparse already.
        rate: share of a layer's living weights exchanged at first (zeta), in (0, 1].
        every: steps between two exchanges (dT).
        until: share of the training with exchanges (T_end).
        scope: which weights.
    """

    budget: ERK | Uniform | Global = ERK(0.9)
    rate: float = 0.3
    every: int = 100
    until: float = 0.75
    scope: Scope = Scope()

    paper: ClassVar[Paper] = Paper(
        "Rigging the Lottery: Making All Tickets Winners", "Evci, Gale, Menick, Castro, Elsen", "ICML", 2020,
        "1911.11134",
    )  # fmt: skip
    needs: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        check("RigL", rate=self.rate, every=self.every, until=self.until)

    def begin(
        self, model: Module, data: Data[Any], *, steps: int, rng: Generator
    ) -> tuple[Mask, Callable[[Step], None]]:
        """A sparse start, and the exchange to make after each step of the training."""
        mask, last = start(model, data, self.budget, self.scope, rng), self.until * steps

        def after(step: Step) -> None:
            if not due(step.index, self.every, last):
                return
            rate, gradients = cosine(self.rate, step.index, last), step.gradients()

            def drop(name: str, weight: Parameter, alive: Tensor) -> Tensor:
                return lowest(weight.detach().abs(), alive, min(int(rate * alive.sum()), int((~alive).sum())))

            def grow(name: str, weight: Parameter, alive: Tensor, dropped: Tensor) -> Tensor:
                return lowest(gradients[name].abs().neg_(), ~alive | dropped, int(dropped.sum()))

            exchange(step, drop, grow)

        return mask, after
