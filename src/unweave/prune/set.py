"""SET: drop the smallest weights, grow as many at random.

Mocanu, Mocanu, Stone, Nguyen, Gibescu, Liotta, "Scalable training of artificial neural networks with adaptive sparse
connectivity inspired by network science", Nature Communications 9, 2018, arXiv 1707.04780.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Generator, Tensor
from torch.nn import Module, Parameter

from ..fit import Step
from ..masks.budgets import ERK, Global, Uniform
from ..masks.mask import Mask
from ..masks.scope import Scope
from ..paper import Paper
from ..random import draw_seed, seeded
from ..types import Data
from ._dynamic import check, cosine, drawn, due, exchange, lowest, start


@dataclass(frozen=True, kw_only=True)
class SET:
    """Train sparsely from the start: every few steps the smallest living weights give way to random dead ones.

    For `Supervised(sparse=SET(...))`. A layer keeps its number of living weights. Grown weights start at zero with no
    momentum. "Smallest" is by size; the paper drops the smallest positive and the largest negative ones apart.

    Attributes:
        budget: how many weights live, and where; the model's own mask is kept if it is sparse already.
        rate: share of a layer's living weights exchanged at the first exchange, in (0, 1].
        every: steps between two exchanges (the paper: an epoch).
        until: share of the training with exchanges.
        decay: "cosine" lets the share fall to zero at the end; "constant" keeps it, as the paper does.
        scope: which weights.
    """

    budget: ERK | Uniform | Global = ERK(0.9)
    rate: float = 0.3
    every: int = 100
    until: float = 0.75
    decay: Literal["cosine", "constant"] = "cosine"
    scope: Scope = Scope()

    paper: ClassVar[Paper] = Paper(
        "Scalable training of artificial neural networks with adaptive sparse connectivity inspired by network science",
        "Mocanu, Mocanu, Stone, Nguyen, Gibescu, Liotta", "Nature Communications", 2018, "1707.04780",
    )  # fmt: skip
    needs: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        check("SET", rate=self.rate, every=self.every, until=self.until)

    def begin(
        self, model: Module, data: Data[Any], *, steps: int, rng: Generator
    ) -> tuple[Mask, Callable[[Step], None]]:
        """A sparse start, and the exchange to make after each step of the training."""
        mask, seed, last = (
            start(model, data, self.budget, self.scope, rng),
            draw_seed(rng),
            self.until * steps,
        )

        def after(step: Step) -> None:
            if not due(step.index, self.every, last):
                return
            draws = seeded(seed + step.index)
            rate = cosine(self.rate, step.index, last) if self.decay == "cosine" else self.rate

            def drop(name: str, weight: Parameter, alive: Tensor) -> Tensor:
                return lowest(weight.detach().abs(), alive, min(int(rate * alive.sum()), int((~alive).sum())))

            def grow(name: str, weight: Parameter, alive: Tensor, dropped: Tensor) -> Tensor:
                return drawn(~alive, int(dropped.sum()), draws)

            exchange(step, drop, grow)

        return mask, after
