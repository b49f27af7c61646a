"""ITOP: explore so long that most weights have lived once.

Liu, Yin, Mocanu, Pechenizkiy, "Do We Actually Need Dense Over-Parameterization? In-Time Over-Parameterization in Sparse
Training", ICML 2021, arXiv 2102.02887: R_s, the share of weights that were ever alive, is what sparse training needs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from torch import Generator, Tensor
from torch.nn import Module

from ..fit import Step
from ..masks.budgets import ERK, Global, Uniform
from ..masks.mask import Mask
from ..masks.scope import Scope
from ..paper import Paper
from ..settings import Count, Range, SomeShare, settings
from ..types import Data
from .dynamic import Begun, Exchange, at_random, by_gradient, cosine, smallest


@dataclass
class Explored:
    """Which weights were ever alive, as far as this process has seen.

    Attributes:
        ever: parameter name -> positions that lived at some time.
    """

    ever: dict[str, Tensor] = field(default_factory=dict)

    def add(self, mask: Mask) -> None:
        """Note the weights that live now."""
        for name, alive in mask.keep.items():
            self.ever[name] = alive.clone() if name not in self.ever else self.ever[name] | alive

    def watching(self, mask: Mask, change: Callable[[Step], None]) -> Callable[[Step], None]:
        """Note a training's first mask, and after each step, once `change` is done, the one held then."""
        self.add(mask)

        def after(step: Step) -> None:
            change(step)
            assert step.hold is not None
            self.add(step.hold)

        return after

    @property
    def rate(self) -> float:
        """R_s: share of the weights that were ever alive, in [0, 1]."""
        total = sum(alive.numel() for alive in self.ever.values())
        return sum(int(alive.sum()) for alive in self.ever.values()) / total if total else 0.0


@settings
class ITOP:
    """SET or RigL set to explore: half of the weights exchanged each time, to the end of the training.

    For `Supervised(sparse=ITOP(...))`. The paper's steps between exchanges (1,500 for SET, 4,000 for RigL) are for 250
    epochs of CIFAR-10; what counts is that grown weights have time to grow and that there are many exchanges.

    Attributes:
        grow: "random" is SET, "gradient" RigL.
        budget: how many weights live, and where.
        rate: share of a layer's living weights exchanged at first.
        every: steps between two exchanges; unless given, 200, or a tenth of the steps in which weights are
            exchanged where those are fewer than 200.
        until: share of the training with exchanges.
        scope: which weights.
        explored: notes which weights were ever alive; read its `rate` after the training. It is not part of a
            checkpoint: after a resumed run it counts from there.
    """

    grow: Literal["random", "gradient"] = "random"
    budget: ERK | Uniform | Global = ERK(0.9)
    rate: Annotated[
        float, Range(above=0, at_most=1, why="It is the share of living weights exchanged at first.")
    ] = 0.5
    every: Count | None = None
    until: SomeShare = 1.0
    scope: Scope = Scope()
    explored: Explored | None = field(default=None, compare=False)

    usual: ClassVar[int] = 200
    paper: ClassVar[Paper] = Paper(
        "Do We Actually Need Dense Over-Parameterization? In-Time Over-Parameterization in Sparse Training",
        "Liu, Yin, Mocanu, Pechenizkiy", "ICML", 2021, "2102.02887",
    )  # fmt: skip

    def begin(self, model: Module, data: Data[Any], *, steps: int, rng: Generator) -> Begun:
        """A sparse start, and the exchange to make after each step of the training.

        Raises:
            InputError: if no exchange would fall into the training, or the model is sparse outside the scope.
        """
        grow = at_random if self.grow == "random" else by_gradient
        exchange = Exchange(self, smallest(cosine(self.rate)), grow)
        mask, change = exchange.begin(model, data, steps=steps, rng=rng)
        return mask, change if self.explored is None else self.explored.watching(mask, change)
