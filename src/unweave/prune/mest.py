"""MEST: sparse training within a memory budget, with mutations that die down.

Yuan, Ma, Niu, Li, Kong, Liu, Gong, Zhan, He, Jin, Wang, Qin, Wang, "MEST: Accurate and Fast Memory-Economic Sparse
Training Framework on the Edge", NeurIPS 2021, arXiv 2110.14032.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Generator, Tensor
from torch.nn import Module, Parameter

from ..errors import InputError
from ..fit import Step
from ..masks.budgets import ERK, Uniform
from ..masks.mask import Mask
from ..masks.scope import Scope
from ..paper import Paper
from ..random import draw_seed, seeded
from ..types import Data
from ._dynamic import drawn, exchange, lowest, start


@dataclass(frozen=True, kw_only=True)
class MEST:
    """Train sparsely from the start: drop by |w| + influence |g|, grow at random, less and less.

    For `Supervised(sparse=MEST(...))`. `mode` "em" keeps within the budget: an exchange drops a share of the layer's
    weights and grows as many. "em&s" may go over it by that share: grown weights train until the next exchange before
    any is dropped, and the surplus is gone at the end. The published script leaves `influence` at 0.

    Attributes:
        budget: how many weights live, and where; the model's own mask is kept if it is sparse already.
        mode: "em" or "em&s".
        ratio: share of all of a layer's weights exchanged, in (0, 1): the paper has 0.02 for "em" and 0.05 for "em&s".
            It halves at `halve` and ends at `until`.
        influence: lambda, the weight of the gradient's size in what is dropped; above 0 an exchange costs a pass more.
        every: steps between two exchanges (the paper: 5 epochs).
        halve: share of the training after which the ratio is half.
        until: share of the training after which nothing is exchanged.
        scope: which weights.
    """

    budget: ERK | Uniform = Uniform(0.9)
    mode: Literal["em", "em&s"] = "em"
    ratio: float = 0.02
    influence: float = 0.0
    every: int = 100
    halve: float = 0.5625
    until: float = 0.75
    scope: Scope = Scope()

    paper: ClassVar[Paper] = Paper(
        "MEST: Accurate and Fast Memory-Economic Sparse Training Framework on the Edge",
        "Yuan, Ma, Niu, Li, Kong, Liu, Gong, Zhan, He, Jin, Wang, Qin, Wang", "NeurIPS", 2021, "2110.14032",
    )  # fmt: skip
    needs: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if not 0 < self.ratio < 1 - self.budget.sparsity:
            raise InputError(
                f"MEST.ratio must be above 0 and below {1 - self.budget.sparsity:.3g}, the density; got {self.ratio}. "
                "It is the share of a layer's weights that is exchanged."
            )
        if self.every < 1 or self.influence < 0 or not 0 < self.halve <= self.until <= 1:
            raise InputError(
                "MEST needs every >= 1, influence >= 0 and 0 < halve <= until <= 1; got "
                f"{self.every}, {self.influence}, {self.halve} and {self.until}."
            )

    def begin(
        self, model: Module, data: Data[Any], *, steps: int, rng: Generator
    ) -> tuple[Mask, Callable[[Step], None]]:
        """A sparse start, and the exchange to make after each step of the training."""
        exact = start(model, data, self.budget, self.scope, rng)
        target = {name: int(alive.sum()) for name, alive in exact.keep.items()}
        mask, seed = exact, draw_seed(rng)
        if self.mode == "em&s":
            draws = seeded(seed)
            mask = Mask(
                {n: a | drawn(~a, self._room(a, target[n], 0, steps), draws) for n, a in exact.keep.items()}
            )

        def after(step: Step) -> None:
            if step.index % self.every and step.index != steps:
                return
            draws = seeded(seed + step.index)
            gradients = step.gradients() if self.influence else {}

            def drop(name: str, weight: Parameter, alive: Tensor) -> Tensor:
                worth = weight.detach().abs()
                if self.influence:
                    worth = worth + self.influence * gradients[name].abs()
                room = self._room(alive, target[name], step.index, steps)
                n = room if self.mode == "em" else int(alive.sum()) - target[name]
                return lowest(worth, alive, n)

            def grow(name: str, weight: Parameter, alive: Tensor, dropped: Tensor) -> Tensor:
                room = self._room(alive, target[name], step.index, steps)
                return drawn(~alive, int(dropped.sum()) if self.mode == "em" else room, draws)

            exchange(step, drop, grow)

        return mask, after

    def _room(self, alive: Tensor, target: int, index: int, steps: int) -> int:
        """How many weights of a layer are exchanged, or surplus, after this step."""
        share = index / steps
        ratio = (
            0.0
            if share > self.until or index >= steps
            else self.ratio / 2
            if share > self.halve
            else self.ratio
        )
        return min(int(ratio * alive.numel()), target, (alive.numel() - target) // 2)
