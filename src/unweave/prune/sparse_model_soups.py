"""Sparse model soups: average several retrained copies of one pruned network, cycle after cycle.

Zimmer, Spiegel, Pokutta, "Sparse Model Soups: A Recipe for Improved Pruning via Model Averaging", ICLR 2024,
arXiv 2306.16788, algorithm 1. All copies share the mask, so their average is as sparse as each of them; networks
pruned one by one would become dense when averaged.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Generator, Tensor
from torch.nn import Module

from ..errors import InputError
from ..fit.batches import set_aside
from ..fit.recipe import Supervised
from ..masks.budgets import Global
from ..masks.layers import copied
from ..masks.mask import Mask
from ..masks.patterns import Pattern, Unstructured, fitting, refuse_own_sparsity
from ..masks.scope import Scope
from ..masks.select import select
from ..paper import Paper
from ..parallel import parallel_map
from ..random import draw_seed, seeded
from ..settings import Count, Inner, NonNegative, Positive, SomeShare, refuse_idle, settings
from ..tasks import Labelled, able, accuracy, predict
from ..types import Data
from .magnitude import Magnitude
from .recalibrate import recalibrate_


@settings
class SparseModelSoup:
    """Per cycle: prune, retrain m copies under that mask, average them; the soup goes into the next cycle.

    Costs `copies` times `cycles` times `epochs` passes over the data. Retraining follows the recipe's learning-rate
    schedule, where the paper has a linear one. A soup that is worse than its worst copy is given up, with a warning,
    for the best copy; the paper has no such guard.

    Attributes:
        recipe: how copies are retrained (optimiser, schedule, augmentation); its own epochs are not read, and its
            `prune` and `sparse` must be None.
        sparsity: S, the share of the weights in scope removed in the end.
        cycles: P, rounds of pruning and retraining; each removes the same share of what is left.
        copies: m, networks to average a cycle, or one number for each cycle. 1 is iterative magnitude pruning.
        epochs: k, passes over the data for each copy in each cycle.
        lr: peak learning rate of retraining; the recipe's unless given.
        vary: the one thing in which copies differ: "seed" (batch order, augmentation), "weight_decay", "length"
            (epochs) or "schedule" (peak learning rate).
        values: what it takes, one value a copy; empty for "seed".
        soup: "uniform" averages all; "greedy" adds copies from the best down while the validation quality does not
            drop; or a function of the copies' qualities (accuracy in %, or minus the mean loss of a task without class
            labels) that returns as many weights with sum 1.
        rebase: False averages in the last cycle only; the cycles before it train one copy.
        validation: share of the data kept from retraining to judge copies and soups by.
        recalibrate: share of the data, in order, from which batch normalisation is estimated anew for a soup.
        jobs: processes that retrain copies; None is every core. The bits do not depend on it.
        pattern: which weights live or die together.
        scope: which weights are pruned.
    """

    recipe: Supervised
    sparsity: Inner = 0.9
    cycles: Count = 3
    copies: Count | tuple[Count, ...] = 3
    epochs: Count = 10
    lr: Positive | None = None
    vary: Literal["seed", "weight_decay", "length", "schedule"] = "seed"
    values: tuple[NonNegative, ...] = ()
    soup: Literal["uniform", "greedy"] | Callable[[list[float]], Sequence[float]] = "uniform"
    rebase: bool = True
    validation: Inner = 0.1
    recalibrate: SomeShare = 1.0
    jobs: Count | None = 1
    pattern: Pattern = Unstructured()
    scope: Scope = Scope()

    paper: ClassVar[Paper] = Paper(
        "Sparse Model Soups: A Recipe for Improved Pruning via Model Averaging", "Zimmer, Spiegel, Pokutta",
        "ICLR", 2024, "2306.16788",
    )  # fmt: skip

    def __post_init__(self) -> None:
        refuse_own_sparsity(self, "sparsity", self.sparsity)
        several = self.copies if isinstance(self.copies, tuple) else (self.copies,) * self.cycles
        if len(several) != self.cycles:
            raise InputError(
                f"SparseModelSoup.copies must be one number, or one for each of the {self.cycles} cycles; got "
                f"{self.copies}."
            )
        if not self.rebase and self.cycles == 1:
            refuse_idle(self, "rebase", when="since there is one cycle")
        if self.recipe.prune is not None or self.recipe.sparse is not None:
            raise InputError("SparseModelSoup.recipe already prunes. Give it the dense recipe.")
        self._check_values(0 if self.vary == "seed" else max(several))

    def _check_values(self, wanted: int) -> None:
        if len(self.values) != wanted:
            raise InputError(
                f"SparseModelSoup.values must hold {wanted} values for vary={self.vary!r}; got {self.values}."
            )
        if self.vary == "weight_decay" and self.recipe.optimizer is not None:
            raise InputError(
                "SparseModelSoup(vary='weight_decay') needs a recipe with SGD: recipe.optimizer sets its own "
                "weight decay. Vary the seed instead."
            )
        if self.vary == "length":
            refuse_idle(self, "epochs", when='since values are the epochs, as vary is "length"')
            if any(v < 1 or v != int(v) for v in self.values):
                raise InputError(
                    f"SparseModelSoup.values must be whole numbers of at least 1 for vary='length'; got {self.values}."
                )
        if self.vary == "schedule":
            refuse_idle(self, "lr", when='since values are the learning rates, as vary is "schedule"')
            if min(self.values) == 0:
                raise InputError(
                    f"SparseModelSoup.values must be above 0 for vary='schedule'; got {self.values}."
                )

    def apply(self, model: Module, data: Data[Any], *, rng: Generator) -> Module:
        """A pruned and retrained copy of `model`; its own zeros stay.

        Raises:
            EmptyDataError: if `data` is empty.
            InputError: if `data` is too small to split, or a layer would lose all its weights.
        """
        data.require_examples("SparseModelSoup")
        train, kept = set_aside(data, self.validation, who="SparseModelSoup", rng=rng)
        current, mask = copied(model), Mask.of(model)
        for cycle in range(self.cycles):
            density = (1 - self.sparsity) ** ((cycle + 1) / self.cycles)
            scores = Magnitude(scope=self.scope).score(current, train)
            fit = fitting(self.pattern, {name: values.shape for name, values in scores.items()})
            scores = {name: values for name, values in scores.items() if name in fit}
            mask = select(scores, self.pattern, Global(1 - density)) & mask
            mask.apply_(current)
            current = self._mix(self._retrain(current, mask, train, cycle, rng), train, kept)
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

    def _mix(self, copies: list[Module], train: Data[Any], kept: Data[Any]) -> Module:
        if len(copies) == 1:
            return copies[0]
        quality = [_quality(copy, kept) for copy in copies]
        ranked = sorted(range(len(copies)), key=lambda i: -quality[i])
        blend = partial(self._blend, copies, train)
        if self.soup == "uniform":
            soup = blend([1 / len(copies)] * len(copies))
        elif self.soup == "greedy":
            chosen, soup, best = ranked[:1], copies[ranked[0]], quality[ranked[0]]
            for i in ranked[1:]:
                tried = blend([float(j in [*chosen, i]) / (len(chosen) + 1) for j in range(len(copies))])
                if (now := _quality(tried, kept)) >= best:
                    chosen, soup, best = [*chosen, i], tried, now
        else:
            soup = blend(list(self.soup(quality)))
        if (reached := _quality(soup, kept)) < min(quality):
            warnings.warn(
                f"SparseModelSoup: the soup ({reached:.3g}) is worse on validation data than its worst copy "
                f"({min(quality):.3g}); the best copy is taken. Copies are too far apart: lower lr or epochs.",
                stacklevel=3,
            )
            return copies[ranked[0]]
        return soup

    def _blend(self, copies: list[Module], train: Data[Any], weights: list[float]) -> Module:
        return recalibrate_(average(copies, weights), train, share=self.recalibrate)


def average(models: Sequence[Module], weights: Sequence[float]) -> Module:
    """The weighted mean of equally sparse networks: sum_i a_i theta_i, in a copy of the first.

    Args:
        models: of one architecture and with the same zeros.
        weights: a_i, as many, with sum 1; a model of weight 0 plays no part.

    Raises:
        InputError: if numbers, names, shapes or zeros do not agree: the average would be denser than its parts.
    """
    if len(models) != len(weights) or not models or abs(sum(weights) - 1) > 1e-6:
        raise InputError(
            f"average needs one weight a model with sum 1; got {len(models)} and {list(weights)}."
        )
    states, masks = [m.state_dict() for m in models], [Mask.of(m) for m in models]
    for state, mask in zip(states[1:], masks[1:], strict=True):
        if {k: v.shape for k, v in state.items()} != {k: v.shape for k, v in states[0].items()}:
            raise InputError("average: the models differ in their tensors' names or shapes.")
        if mask.iou(masks[0]) < 0.99:  # a living weight may be zero by chance in a short floating type
            raise InputError(
                "average: the models were pruned differently, so their average would be denser than each. "
                "Retrain copies of one pruned model."
            )
    mean: dict[str, Tensor] = {}
    for name, first in states[0].items():
        if first.is_floating_point():
            total = sum(a * s[name].double() for a, s in zip(weights, states, strict=True) if a)
            mean[name] = torch.as_tensor(total).to(first.dtype)
        else:
            mean[name] = first
    soup = deepcopy(models[0])
    soup.load_state_dict(mean)
    return soup


def _retrained(
    model: Module, mask: Mask, train: Data[Any], job: tuple[Supervised, int, float, int]
) -> Module:
    recipe, epochs, lr, seed = job
    copy = copied(model)
    recipe.train_(copy, train, epochs=epochs, lr=lr, rng=seeded(seed), hold=mask)
    return copy


def _quality(model: Module, data: Data[Any]) -> float:
    """Accuracy in %; of a task without class labels, minus the mean loss."""
    if able(data.task, Labelled):
        return accuracy(model, data)
    return -float(predict(model, data, data.task.losses).mean())
