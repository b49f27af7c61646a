"""SET: drop the smallest weights, grow as many at random.

Mocanu, Mocanu, Stone, Nguyen, Gibescu, Liotta, "Scalable training of artificial neural networks with adaptive sparse
connectivity inspired by network science", Nature Communications 9, 2018, arXiv 1707.04780.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from torch import Generator
from torch.nn import Module

from ..masks.budgets import ERK, Global, Uniform
from ..masks.scope import Scope
from ..paper import Paper
from ..settings import Count, Range, SomeShare, settings
from ..types import Data
from .dynamic import Begun, Exchange, at_random, constant, cosine, smallest


@settings
class SET:
    """Train sparsely from the start: every few steps the smallest living weights give way to random dead ones.

    For `Supervised(sparse=SET(...))`. A layer keeps its number of living weights. Grown weights start at zero with no
    momentum. "Smallest" is by size; the paper drops the smallest positive and the largest negative ones apart.

    Attributes:
        budget: how many weights live, and where; the model's own mask is kept if it is sparse already.
        rate: share of a layer's living weights exchanged at the first exchange.
        every: steps between two exchanges (the paper: an epoch); unless given, 100, or a tenth of the steps in which
            weights are
            exchanged where those are fewer than 100.
        until: share of the training with exchanges.
        decay: "cosine" lets the share fall to zero at the end; "constant" keeps it, as the paper does.
        scope: which weights.
    """

    budget: ERK | Uniform | Global = ERK(0.9)
    rate: Annotated[
        float, Range(above=0, at_most=1, why="It is the share of living weights exchanged at first.")
    ] = 0.3
    every: Count | None = None
    until: SomeShare = 0.75
    decay: Literal["cosine", "constant"] = "cosine"
    scope: Scope = Scope()

    usual: ClassVar[int] = 100
    paper: ClassVar[Paper] = Paper(
        "Scalable training of artificial neural networks with adaptive sparse connectivity inspired by network science",
        "Mocanu, Mocanu, Stone, Nguyen, Gibescu, Liotta", "Nature Communications", 2018, "1707.04780",
    )  # fmt: skip

    def begin(self, model: Module, data: Data[Any], *, steps: int, rng: Generator) -> Begun:
        """A sparse start, and the exchange to make after each step of the training.

        Raises:
            InputError: if no exchange would fall into the training, or the model is sparse outside the scope.
        """
        rate = cosine(self.rate) if self.decay == "cosine" else constant(self.rate)
        return Exchange(self, smallest(rate), at_random).begin(model, data, steps=steps, rng=rng)
