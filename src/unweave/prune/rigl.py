"""RigL: drop the smallest weights, grow those whose gradient is largest.

Evci, Gale, Menick, Castro, Elsen, "Rigging the Lottery: Making All Tickets Winners", ICML 2020, arXiv 1911.11134,
section 3: every dT steps a share zeta / 2 (1 + cos(pi t / T_end)) of each layer's weights is exchanged.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from torch import Generator
from torch.nn import Module

from ..masks.budgets import ERK, Global, Uniform
from ..masks.scope import Scope
from ..paper import Paper
from ..settings import Count, Range, SomeShare, settings
from ..types import Data
from .dynamic import Begun, Exchange, by_gradient, cosine, smallest


@settings
class RigL:
    """Train sparsely from the start: dead weights with a large gradient take the places of small living ones.

    For `Supervised(sparse=RigL(...))`. Gradients are dense ones on the step's batch, over all processes, at one more
    forward and backward pass an exchange; the paper puts the exchange in place of that step's update, here it follows
    it. Weights just dropped may be grown again and then keep their value; others start at zero with no momentum.

    Attributes:
        budget: how many weights live, and where; the model's own mask is kept if it is sparse already.
        rate: share of a layer's living weights exchanged at first (zeta).
        every: steps between two exchanges (dT); unless given, 100, or a tenth of the steps in which weights are
            exchanged where those are fewer than 100.
        until: share of the training with exchanges (T_end).
        scope: which weights.
    """

    budget: ERK | Uniform | Global = ERK(0.9)
    rate: Annotated[
        float, Range(above=0, at_most=1, why="It is the share of living weights exchanged at first.")
    ] = 0.3
    every: Count | None = None
    until: SomeShare = 0.75
    scope: Scope = Scope()

    usual: ClassVar[int] = 100
    paper: ClassVar[Paper] = Paper(
        "Rigging the Lottery: Making All Tickets Winners", "Evci, Gale, Menick, Castro, Elsen", "ICML", 2020,
        "1911.11134",
    )  # fmt: skip

    def begin(self, model: Module, data: Data[Any], *, steps: int, rng: Generator) -> Begun:
        """A sparse start, and the exchange to make after each step of the training.

        Raises:
            InputError: if no exchange would fall into the training, or the model is sparse outside the scope.
        """
        exchange = Exchange(self, smallest(cosine(self.rate)), by_gradient)
        return exchange.begin(model, data, steps=steps, rng=rng)
