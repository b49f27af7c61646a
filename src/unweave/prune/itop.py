"""ITOP: explore so long that most weights have lived once.

Liu, Yin, Mocanu, Pechenizkiy, "Do We Actually Need Dense Over-Parameterization? In-Time Over-Parameterization in Sparse
Training", ICML 2021, arXiv 2102.02887: R_s, the share of weights that were ever alive, is what sparse training needs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from torch import Generator, Tensor
from torch.nn import Module

from ..errors import InputError
from ..fit import Step
from ..masks.budgets import ERK, Global, Uniform
from ..masks.mask import Mask
from ..masks.scope import Scope
from ..paper import Paper
from ..types import Data
from .rigl import RigL
from .set import SET


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

    @property
    def rate(self) -> float:
        """R_s: share of the weights that were ever alive, in [0, 1]."""
        total = sum(alive.numel() for alive in self.ever.values())
        return sum(int(alive.sum()) for alive in self.ever.values()) / total if total else 0.0


@dataclass(frozen=True, kw_only=True)
class ITOP:
    """SET or RigL set to explore: half of the weights exchanged each time, to the end of the training.

    For `Supervised(sparse=ITOP(...))`. The paper's steps between exchanges (1,500 for SET, 4,000 for RigL) are for 250
    epochs of CIFAR-10; what counts is that grown weights have time to grow and that there are many exchanges.

    Attributes:
        grow: "random" is SET, "gradient" RigL.
        budget: how many weights live, and where.
        rate: share of a layer's living weights exchanged at first, in (0, 1].
        every: steps between two exchanges.
        until: share of the training with exchanges.
        scope: which weights.
        explored: notes which weights were ever alive; read its `rate` after the training. It is not part of a
            checkpoint: after a resumed run it counts from there.
    """

    grow: Literal["random", "gradient"] = "random"
    budget: ERK | Uniform | Global = ERK(0.9)
    rate: float = 0.5
    every: int = 200
    until: float = 1.0
    scope: Scope = Scope()
    explored: Explored | None = field(default=None, compare=False)

    paper: ClassVar[Paper] = Paper(
        "Do We Actually Need Dense Over-Parameterization? In-Time Over-Parameterization in Sparse Training",
        "Liu, Yin, Mocanu, Pechenizkiy", "ICML", 2021, "2102.02887",
    )  # fmt: skip
    needs: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if self.grow not in ("random", "gradient"):
            raise InputError(f'ITOP.grow must be "random" or "gradient"; got {self.grow!r}.')
        self._method()

    def begin(
        self, model: Module, data: Data[Any], *, steps: int, rng: Generator
    ) -> tuple[Mask, Callable[[Step], None]]:
        """A sparse start, and what to do after each step of the training."""
        mask, change = self._method().begin(model, data, steps=steps, rng=rng)
        if self.explored is None:
            return mask, change
        explored = self.explored
        explored.add(mask)

        def after(step: Step) -> None:
            change(step)
            assert step.hold is not None
            explored.add(step.hold)

        return mask, after

    def _method(self) -> SET | RigL:
        cls = SET if self.grow == "random" else RigL
        return cls(budget=self.budget, rate=self.rate, every=self.every, until=self.until, scope=self.scope)
