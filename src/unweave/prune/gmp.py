"""Gradual magnitude pruning: train while the sparsity rises along a cubic.

Zhu, Gupta, "To prune, or not to prune: exploring the efficacy of pruning for model compression", 2017,
arXiv 1710.01878, eq. 1: s_t = s_f + (s_i - s_f) (1 - (t - t_0) / (n dt))^3.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

from torch import Generator
from torch.nn import Module
from torch.optim import SGD

from ..errors import InputError
from ..fit import Loop, Step, fit_
from ..fit.recipe import mean_loss
from ..masks.budgets import ERK, Global, Uniform
from ..masks.layers import copied
from ..masks.mask import Mask
from ..masks.patterns import Pattern, Unstructured, require_rising
from ..masks.scope import Scope
from ..masks.select import select
from ..paper import Paper
from ..settings import Count, NonNegative, Part, Positive, SomeShare, settings
from ..types import Data
from .magnitude import Magnitude


@settings
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
    initial: Part = 0.0
    epochs: Count = 20
    start: Part = 0.0
    end: SomeShare = 0.75
    every: Count = 10
    lr: Positive = 0.02
    momentum: Part = 0.9
    weight_decay: NonNegative = 5e-4
    pattern: Pattern = Unstructured()
    scope: Scope = Scope()

    paper: ClassVar[Paper] = Paper(
        "To prune, or not to prune: exploring the efficacy of pruning for model compression", "Zhu, Gupta",
        "ICLR workshop", 2018, "1710.01878",
    )  # fmt: skip

    def __post_init__(self) -> None:
        require_rising(self, "Prune or ProgressiveNM")
        if self.initial > self.budget.sparsity:
            raise InputError(
                f"GMP.initial must be at most {self.budget.sparsity}, the final sparsity; got {self.initial}."
            )
        if self.start >= self.end:
            raise InputError(
                f"GMP needs start < end, shares of the training; got {self.start} and {self.end}."
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
        pruned = copied(model)
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
        """For a recipe: the model's own zeros, and the cuts to make after its steps.

        Raises:
            InputError: if only one cut would fall into a training of so many steps: it would not be gradual.
        """
        first, last = round(self.start * steps), max(1, round(self.end * steps))
        if len({*range(first or self.every, last + 1, self.every), last}) < 2:
            raise InputError(
                f"GMP would cut once, not gradually: every={self.every}, but the training has {steps} steps and cuts "
                f"fall between steps {first} and {last}. Lower every, train longer, or prune once (Prune)."
            )
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
