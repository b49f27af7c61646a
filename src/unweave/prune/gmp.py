"""Gradual magnitude pruning: train while the sparsity rises along a cubic.

Zhu, Gupta, "To prune, or not to prune: exploring the efficacy of pruning for model compression", 2017,
arXiv 1710.01878, eq. 1: s_t = s_f + (s_i - s_f) (1 - (t - t_0) / (n dt))^3.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Generator
from torch.nn import Module
from torch.optim import SGD

from ..errors import InputError
from ..fit import Loop, Step, fit_
from ..fit.recipe import mean_loss
from ..masks.budgets import ERK, Global, Uniform
from ..masks.mask import Mask
from ..masks.patterns import Pattern, Unstructured
from ..masks.scope import Scope
from ..masks.select import select
from ..paper import Paper
from ..types import Data
from .magnitude import Magnitude


@dataclass(frozen=True, kw_only=True)
class GMP:
    """Train with SGD and prune by magnitude every few steps, to a sparsity rising fast, then slowly.

    A pruned weight stays pruned: it is held at zero, so its magnitude cannot bring it back (the paper's own
    code masks the forward pass and lets hidden weights return if a later threshold falls below them).

    Attributes:
        budget: final sparsity s_f, and how it is shared among layers.
        initial: s_i, the sparsity of the first cut.
        epochs: passes over the data, in all.
        start: share of the steps done before the first cut (t_0).
        end: share of the steps at which s_f is reached; training goes on under the mask from there.
        every: steps between two cuts (dt).
        lr: learning rate, constant.
        momentum: of SGD.
        weight_decay: of SGD.
        pattern: which weights live or die together.
        scope: which weights are pruned.
    """

    budget: Global | Uniform | ERK = Global(0.9)
    initial: float = 0.0
    epochs: int = 20
    start: float = 0.0
    end: float = 0.75
    every: int = 10
    lr: float = 0.02
    momentum: float = 0.9
    weight_decay: float = 5e-4
    pattern: Pattern = Unstructured()
    scope: Scope = Scope()

    paper: ClassVar[Paper] = Paper(
        "To prune, or not to prune: exploring the efficacy of pruning for model compression", "Zhu, Gupta",
        "ICLR workshop", 2018, "1710.01878",
    )  # fmt: skip
    needs: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.initial <= self.budget.sparsity:
            raise InputError(
                f"GMP.initial must lie in [0, {self.budget.sparsity}], the final sparsity; got "
                f"{self.initial}."
            )
        if not 0 <= self.start < self.end <= 1:
            raise InputError(
                f"GMP needs 0 <= start < end <= 1, shares of the training; got {self.start} and {self.end}."
            )
        if self.epochs < 1 or self.every < 1:
            raise InputError(
                f"GMP.epochs and GMP.every must be at least 1; got {self.epochs} and {self.every}."
            )

    def sparsity(self, progress: float) -> float:
        """Sparsity due at this share of the training, from 0 to 1; `initial` before the start."""
        done = min(1.0, max(0.0, (progress - self.start) / (self.end - self.start)))
        return self.budget.sparsity + (self.initial - self.budget.sparsity) * (1 - done) ** 3

    def apply(self, model: Module, data: Data[Any], *, rng: Generator) -> Module:
        """A trained and pruned copy of `model`; its own zeros stay.

        Raises:
            EmptyDataError: if `data` is empty.
            InputError: if a layer would lose all its weights.
        """
        data.require_examples("GMP")
        pruned = deepcopy(model)
        steps = self.epochs * data.steps
        given, cut = self.begin(pruned, data, steps=steps, rng=rng)
        trained = [p for p in pruned.parameters() if p.requires_grad]
        optimizer = SGD(trained, self.lr, momentum=self.momentum, weight_decay=self.weight_decay)
        fit_(
            pruned, data, mean_loss(data), optimizer,
            epochs=self.epochs, rng=rng, hold=given, after_step=cut, loop=Loop(label="prune gradually"),
        )  # fmt: skip
        return pruned

    def begin(
        self, model: Module, data: Data[Any], *, steps: int, rng: Generator
    ) -> tuple[Mask, Callable[[Step], None]]:
        """For a recipe: the model's own zeros, and the cuts to make after its steps."""
        first, last = round(self.start * steps), max(1, round(self.end * steps))
        score, given = Magnitude(scope=self.scope), Mask.of(model)

        def cut(step: Step) -> None:
            if not first <= step.index <= last or ((step.index - first) % self.every and step.index != last):
                return
            sparsity = self.budget.sparsity if step.index == last else self.sparsity(step.index / steps)
            mask = select(
                score.score(step.model, data), self.pattern, replace(self.budget, sparsity=sparsity)
            )
            step.hold = mask & (given if step.hold is None else step.hold)

        return given, cut
