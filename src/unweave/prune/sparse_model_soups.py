"""Sparse model soups: average several retrained copies of one pruned network, cycle after cycle.

Zimmer, Spiegel, Pokutta, "Sparse Model Soups: A Recipe for Improved Pruning via Model Averaging", ICLR 2024,
arXiv 2306.16788, algorithm 1. All copies share the mask, so their average is as sparse as each of them; networks
pruned one by one would become dense when averaged.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Generator
from torch.nn import Module

from ..errors import InputError
from ..fit.recipe import Supervised
from ..masks.budgets import Global
from ..masks.mask import Mask
from ..masks.patterns import Pattern, Unstructured
from ..masks.scope import Scope
from ..masks.select import select
from ..paper import Paper
from ..parallel import parallel_map
from ..random import child, draw_seed, seeded
from ..tasks import predict, read_labels
from ..types import Data
from ._soup import average, recalibrate_
from .magnitude import Magnitude


@dataclass(frozen=True, kw_only=True)
class SparseModelSoup:
    """Per cycle: prune, retrain m copies under that mask, average them; the soup goes into the next cycle.

    Costs `copies` times `cycles` times `epochs` passes over the data. Retraining follows the recipe's learning-rate
    schedule, where the paper has a linear one. A soup that is worse than its worst copy is given up, with a warning,
    for the best copy; the paper has no such guard.

    Attributes:
        recipe: how copies are retrained (optimiser, schedule, augmentation); its own epochs are not read, and its
            `prune` and `sparse` must be None.
        sparsity: S, the share of the weights in scope removed in the end, in (0, 1).
        cycles: P, rounds of pruning and retraining; each removes the same share of what is left.
        copies: m, networks to average a cycle, or one number for each cycle. 1 is iterative magnitude pruning.
        epochs: k, passes over the data for each copy in each cycle.
        lr: peak learning rate of retraining; the recipe's unless given.
        vary: the one thing in which copies differ: "seed" (batch order, augmentation), "weight_decay", "length"
            (epochs) or "schedule" (peak learning rate).
        values: what it takes, one value a copy; empty for "seed".
        soup: "uniform" averages all; "greedy" adds copies from the best down while the validation quality does not
            drop; or a function of the copies' qualities that returns as many weights with sum 1.
        rebase: False averages in the last cycle only; the cycles before it train one copy.
        validation: share of the data kept from retraining to judge copies and soups by, in (0, 1).
        recalibrate: share of the data, in order, from which batch normalisation is estimated anew for a soup.
        jobs: processes that retrain copies; None is every core. The bits do not depend on it.
        pattern: which weights live or die together.
        scope: which weights are pruned.
    """

    recipe: Supervised
    sparsity: float = 0.9
    cycles: int = 3
    copies: int | tuple[int, ...] = 3
    epochs: int = 10
    lr: float | None = None
    vary: Literal["seed", "weight_decay", "length", "schedule"] = "seed"
    values: tuple[float, ...] = ()
    soup: Literal["uniform", "greedy"] | Callable[[list[float]], Sequence[float]] = "uniform"
    rebase: bool = True
    validation: float = 0.1
    recalibrate: float = 1.0
    jobs: int | None = 1
    pattern: Pattern = Unstructured()
    scope: Scope = Scope()

    paper: ClassVar[Paper] = Paper(
        "Sparse Model Soups: A Recipe for Improved Pruning via Model Averaging", "Zimmer, Spiegel, Pokutta",
        "ICLR", 2024, "2306.16788",
    )  # fmt: skip
    needs: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        for name in ("sparsity", "validation"):
            if not 0 < getattr(self, name) < 1:
                raise InputError(f"SparseModelSoup.{name} must be in (0, 1); got {getattr(self, name)}.")
        if not 0 < self.recalibrate <= 1:
            raise InputError(f"SparseModelSoup.recalibrate must be in (0, 1]; got {self.recalibrate}.")
        if self.cycles < 1 or self.epochs < 1:
            raise InputError(
                f"SparseModelSoup.cycles and epochs must be at least 1; got {self.cycles}, {self.epochs}."
            )
        several = self.copies if isinstance(self.copies, tuple) else (self.copies,) * self.cycles
        if len(several) != self.cycles or min(several) < 1:
            raise InputError(
                f"SparseModelSoup.copies must be at least 1, one number or one for each of the {self.cycles} "
                f"cycles; got {self.copies}."
            )
        wanted = 0 if self.vary == "seed" else max(several)
        if len(self.values) != wanted:
            raise InputError(
                f"SparseModelSoup.values must hold {wanted} values for vary={self.vary!r}; got {self.values}."
            )
        if self.recipe.prune is not None or self.recipe.sparse is not None:
            raise InputError("SparseModelSoup.recipe already prunes. Give it the dense recipe.")
        if self.vary == "weight_decay" and self.recipe.optimizer is not None:
            raise InputError(
                "SparseModelSoup(vary='weight_decay') needs a recipe with SGD: recipe.optimizer sets its own "
                "weight decay. Vary the seed instead."
            )

    def apply(self, model: Module, data: Data[Any], *, rng: Generator) -> Module:
        """A pruned and retrained copy of `model`; its own zeros stay.

        Raises:
            EmptyDataError: if `data` is empty.
            InputError: if `data` is too small to split, or a layer would lose all its weights.
        """
        data.require_examples("SparseModelSoup")
        order = torch.randperm(len(data), generator=child(rng))
        kept = max(1, round(self.validation * len(data)))
        kept += (
            len(data) - kept
        ) % data.batch_size == 1  # batch normalisation cannot train on a batch of one
        if kept >= len(data):
            raise InputError(
                f"SparseModelSoup needs examples beside the {kept} for validation; got {len(data)}."
            )
        judge, train = data.subset(order[:kept]), data.subset(order[kept:].sort().values)
        current, mask = deepcopy(model), Mask.of(model)
        for cycle in range(self.cycles):
            density = (1 - self.sparsity) ** ((cycle + 1) / self.cycles)
            scores = Magnitude(scope=self.scope).score(current, train)
            mask = select(scores, self.pattern, Global(1 - density)) & mask
            mask.apply_(current)
            current = self._mix(self._retrain(current, mask, train, cycle, rng), train, judge)
        return current

    def _retrain(
        self, model: Module, mask: Mask, train: Data[Any], cycle: int, rng: Generator
    ) -> list[Module]:
        copies = self.copies[cycle] if isinstance(self.copies, tuple) else self.copies
        if not self.rebase and cycle < self.cycles - 1:
            copies = 1
        shared = draw_seed(rng)
        jobs: list[tuple[Supervised, int, float, int]] = []
        for i in range(copies):
            recipe, epochs, lr = self.recipe, self.epochs, self.lr or self.recipe.lr
            if self.vary == "weight_decay":
                recipe = replace(recipe, weight_decay=self.values[i])
            elif self.vary == "length":
                epochs = round(self.values[i])
            elif self.vary == "schedule":
                lr = self.values[i]
            jobs.append((recipe, epochs, lr, shared + i if self.vary == "seed" else shared))
        return parallel_map(partial(_retrained, model, mask, train), jobs, jobs=self.jobs, label="copies")

    def _mix(self, copies: list[Module], train: Data[Any], judge: Data[Any]) -> Module:
        if len(copies) == 1:
            return copies[0]
        quality = [_quality(copy, judge) for copy in copies]
        ranked = sorted(range(len(copies)), key=lambda i: -quality[i])
        blend = partial(self._blend, copies, train)
        if self.soup == "uniform":
            soup = blend([1 / len(copies)] * len(copies))
        elif self.soup == "greedy":
            chosen, soup, best = ranked[:1], copies[ranked[0]], quality[ranked[0]]
            for i in ranked[1:]:
                tried = blend([float(j in [*chosen, i]) / (len(chosen) + 1) for j in range(len(copies))])
                if (now := _quality(tried, judge)) >= best:
                    chosen, soup, best = [*chosen, i], tried, now
        else:
            soup = blend(list(self.soup(quality)))
        if (reached := _quality(soup, judge)) < min(quality):
            warnings.warn(
                f"SparseModelSoup: the soup ({reached:.3g}) is worse on validation data than its worst copy "
                f"({min(quality):.3g}); the best copy is taken. Copies are too far apart: lower lr or epochs.",
                stacklevel=3,
            )
            return copies[ranked[0]]
        return soup

    def _blend(self, copies: list[Module], train: Data[Any], weights: list[float]) -> Module:
        return recalibrate_(average(copies, weights), train, share=self.recalibrate)


def _retrained(
    model: Module, mask: Mask, train: Data[Any], job: tuple[Supervised, int, float, int]
) -> Module:
    recipe, epochs, lr, seed = job
    copy = deepcopy(model)
    recipe.train_(copy, train, epochs=epochs, lr=lr, rng=seeded(seed), hold=mask)
    return copy


def _quality(model: Module, data: Data[Any]) -> float:
    if hasattr(data.task, "labels"):
        return float((predict(model, data).argmax(-1) == read_labels(data)).float().mean())
    return -float(predict(model, data, data.task.losses).mean())
