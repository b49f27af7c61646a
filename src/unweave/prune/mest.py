"""MEST: sparse training within a memory budget, with mutations that die down.

Yuan, Ma, Niu, Li, Kong, Liu, Gong, Zhan, He, Jin, Wang, Qin, Wang, "MEST: Accurate and Fast Memory-Economic Sparse
Training Framework on the Edge", NeurIPS 2021, arXiv 2110.14032.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, ClassVar, Literal

from torch import Generator, Tensor
from torch.nn import Module

from ..errors import InputError
from ..masks.budgets import ERK, Uniform
from ..masks.mask import Mask
from ..masks.scope import Scope
from ..masks.select import lowest
from ..paper import Paper
from ..random import draw_seed, seeded
from ..settings import Count, NonNegative, Range, SomeShare, settings
from ..types import Data
from .dynamic import Begun, Exchange, Moment, Positions, drawn, start


@settings
class MEST:
    """Train sparsely from the start: drop by |w| + influence |g|, grow at random, less and less.

    For `Supervised(sparse=MEST(...))`. `mode` "em" keeps within the budget: an exchange drops a share of the layer's
    weights and grows as many. "em&s" may go over it by that share: grown weights train until the next exchange before
    any is dropped, and the surplus is gone at the end. The published script leaves `influence` at 0.

    Attributes:
        budget: how many weights live, and where; the model's own mask is kept if it is sparse already.
        mode: "em" or "em&s".
        ratio: share of all of a layer's weights exchanged: the paper has 0.02 for "em" and 0.05 for "em&s".
            It halves at `halve` and ends at `until`.
        influence: lambda, the weight of the gradient's size in what is dropped; above 0 an exchange costs a pass more.
        every: steps between two exchanges (the paper: 5 epochs); unless given, 100, or a tenth of the steps in which
            weights are
            exchanged where those are fewer than 100.
        halve: share of the training after which the ratio is half.
        until: share of the training after which nothing is exchanged.
        scope: which weights.
    """

    budget: ERK | Uniform = Uniform(0.9)
    mode: Literal["em", "em&s"] = "em"
    ratio: Annotated[
        float, Range(above=0, below=1, why="It is the share of a layer's weights exchanged.")
    ] = 0.02
    influence: NonNegative = 0.0
    every: Count | None = None
    halve: SomeShare = 0.5625
    until: SomeShare = 0.75
    scope: Scope = Scope()

    usual: ClassVar[int] = 100
    paper: ClassVar[Paper] = Paper(
        "MEST: Accurate and Fast Memory-Economic Sparse Training Framework on the Edge",
        "Yuan, Ma, Niu, Li, Kong, Liu, Gong, Zhan, He, Jin, Wang, Qin, Wang", "NeurIPS", 2021, "2110.14032",
    )  # fmt: skip

    def __post_init__(self) -> None:
        if self.ratio >= 1 - self.budget.sparsity:
            raise InputError(
                f"MEST.ratio must be below {1 - self.budget.sparsity:.3g}, the density; got {self.ratio}. It is the "
                "share of a layer's weights exchanged."
            )
        if self.halve > self.until:
            raise InputError(
                f"MEST.halve must be at most until, {self.until}; got {self.halve}. The ratio halves before it ends."
            )

    def begin(self, model: Module, data: Data[Any], *, steps: int, rng: Generator) -> Begun:
        """A sparse start, and the exchange to make after each step of the training.

        Raises:
            InputError: if no exchange would fall into the training, or the model is sparse outside the scope.
        """
        mask, seed = start(model, data, self.budget, self.scope, rng), draw_seed(rng)
        target = {name: int(alive.sum()) for name, alive in mask.keep.items()}
        drop, grow = partial(self._drop, target, steps), partial(self._grow, target, steps)
        change = Exchange(self, drop, grow, beyond=True).after(steps, seed)
        if self.mode == "em&s":
            draws = seeded(seed)
            mask = Mask(
                {n: a | drawn(~a, self._room(a, target[n], 0, steps), draws) for n, a in mask.keep.items()}
            )
        return mask, change

    def _drop(self, target: dict[str, int], steps: int, at: Moment) -> Positions:
        """The least by |w| + lambda |g|: as many as will grow, or all that is over the budget."""
        died: Positions = {}
        for name, (weight, alive) in at.layers.items():
            worth = weight.detach().abs()
            if self.influence:
                worth = worth + self.influence * at.gradients[name].abs()
            room = self._room(alive, target[name], at.step.index, steps)
            died[name] = lowest(worth, alive, room if self.mode == "em" else int(alive.sum()) - target[name])
        return died

    def _grow(self, target: dict[str, int], steps: int, at: Moment, dropped: Positions) -> Positions:
        """At random: as many as died, or as many as may be over the budget until the next exchange."""
        grown: Positions = {}
        for name, (_, alive) in at.layers.items():
            room = self._room(alive, target[name], at.step.index, steps)
            n = int(dropped[name].sum()) if self.mode == "em" else room
            grown[name] = drawn(~alive, n, at.draws)
        return grown

    def _room(self, alive: Tensor, target: int, index: int, steps: int) -> int:
        """How many weights of a layer are exchanged, or over the budget, after this step."""
        share = index / steps
        if share > self.until or index >= steps:
            return 0
        ratio = self.ratio / 2 if share > self.halve else self.ratio
        return min(int(ratio * alive.numel()), target, (alive.numel() - target) // 2)
