"""Data-efficient augmentation: augment a small weighted subset that stands for all.

Liu, Mirzasoleiman, "Data-Efficient Augmentation for Training Neural Networks", NeurIPS 2022, arXiv 2210.08363: class by
class, the subset whose gradients cover all others' best (facility location), chosen anew every few epochs.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import Module

from ..errors import InputError
from ..fit import Objective, Step
from ..paper import Paper
from ..random import draw_seed, require_generator
from ..settings import Count, SomeShare, Whole, settings
from ..tasks import Labelled, Perturbing, predict, read_labels, requires
from ..types import Batch, Data


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """A weighted subset.

    Attributes:
        positions: in the data, ascending, [b].
        weights: how many examples each stands for, scaled to mean 1, [b].
        represents: position of the chosen example that stands for each example, [n].
    """

    positions: Tensor
    weights: Tensor
    represents: Tensor


@settings
class DataEfficientAugmentation:
    """Choose what to augment, by gradients, and train with it.

    Gradients are those of the loss with respect to the logits, p - y, in eval mode on unchanged examples. A class's
    share of the budget is equal to the others' (the surplus of small classes is spread over the rest) or in proportion
    to its size. Greedy choice is lazy and within 1 - 1/e of the best.

    Attributes:
        budget: share of the examples to choose; at least one a class.
        method: "facility" (the paper's), "loss" (largest losses) or "random".
        shares: "equal" or "proportional" budgets of classes.
        every: epochs between two choices.
        warm: epochs before the first; an untrained network's gradients tell little.
        weighted: weigh augmented examples by what they stand for; the published default gives them equal weights.
    """

    budget: SomeShare = 0.1
    method: Literal["facility", "loss", "random"] = "facility"
    shares: Literal["equal", "proportional"] = "equal"
    every: Count = 2
    warm: Whole = 1
    weighted: bool = False

    paper: ClassVar[Paper] = Paper(
        "Data-Efficient Augmentation for Training Neural Networks",
        "Liu, Mirzasoleiman",
        "NeurIPS",
        2022,
        "2210.08363",
    )

    def choose(self, model: Module, data: Data[Any], *, rng: Generator) -> Chosen:
        """The subset for this model.

        Raises:
            EmptyDataError: if `data` is empty.
            InputError: if its task has no labels, or the budget is below the number of classes.
        """
        requires(data.task, Labelled, "DataEfficientAugmentation")
        data.require_examples("DataEfficientAugmentation")
        logits, labels = predict(model, data), read_labels(data)
        gradients = logits.softmax(1)
        gradients[torch.arange(len(labels)), labels] -= 1
        return self.select(gradients, labels, rng=rng)

    def select(self, gradients: Tensor, labels: Tensor, *, rng: Generator) -> Chosen:
        """The same, of gradients [n, width] and labels [n].

        Raises:
            InputError: if a gradient is not finite, or the budget is below the number of classes.
        """
        require_generator(rng)
        if not bool(gradients.isfinite().all()):
            raise InputError(
                "DataEfficientAugmentation: a gradient is not finite; the model's answers are not."
            )
        n, classes = len(labels), sorted(set(labels.tolist()))
        total = max(1, round(self.budget * n))
        if total < len(classes):
            raise InputError(
                f"DataEfficientAugmentation: a budget of {total} examples is below the number of classes, "
                f"{len(classes)}."
            )
        sizes = {c: int((labels == c).sum()) for c in classes}
        budgets = _budgets(sizes, total, self.shares)
        positions, weights = [], []
        represents = torch.empty(n, dtype=torch.long)
        for c in classes:
            mine = (labels == c).nonzero().flatten()
            apart = torch.cdist(gradients[mine].double(), gradients[mine].double())
            similar = (apart.max() - apart).numpy()
            if self.method == "facility":
                picked = facility(similar, budgets[c])
            elif self.method == "loss":
                picked = gradients[mine].double().norm(dim=1).topk(budgets[c]).indices.tolist()
            else:
                picked = torch.randperm(len(mine), generator=rng)[: budgets[c]].tolist()
            nearest = similar[:, picked].argmax(1)
            represents[mine] = mine[torch.tensor(picked)][torch.from_numpy(nearest)]
            counts = np.bincount(nearest, minlength=len(picked)).clip(min=1)
            positions.append(mine[torch.tensor(picked)])
            weights.append(torch.from_numpy(counts).double())
        where, share = torch.cat(positions), torch.cat(weights)
        order = where.argsort()
        return Chosen(
            positions=where[order],
            weights=(share * len(share) / share.sum())[order].float(),
            represents=represents,
        )

    def training(
        self, data: Data[Any], augment: Callable[[Tensor], Tensor], *, rng: Generator
    ) -> tuple[Objective, Callable[[Step], None]]:
        """For `fit_`: an objective that adds augmented copies of chosen examples, and what chooses them.

        All examples are trained on as they are. Each batch of b of them is joined by as many augmented ones as its
        share of the subset, drawn in turn, so that an epoch sees each chosen example augmented once.

        Args:
            data: trained on; its task must be `Perturbing`.
            augment: inputs -> inputs, drawing from torch's global generator.
            rng: draws random subsets and the order of augmented examples.

        Raises:
            InputError: if the task is not.
        """
        requires(data.task, Perturbing, "DataEfficientAugmentation")
        task, state = data.task, _State()
        per_epoch = data.steps
        seed = draw_seed(rng)

        def loss(model: Module, batch: Batch) -> Tensor:
            plain: Tensor = task.losses(model, batch).mean()
            if state.chosen is None:
                return plain
            k = -(-len(state.chosen.positions) // per_epoch)
            at = state.order[(state.seen % per_epoch) * k :][:k]
            state.seen += 1
            if len(at) == 0:
                return plain
            extra = next(data.subset(state.chosen.positions[at]).batches())
            moved = task.losses(model, task.replace_inputs(extra, augment(task.inputs(extra))))
            if self.weighted:
                moved = moved * state.chosen.weights[at].to(moved)
            share = len(at) / (len(at) + len(task.labels(batch)))
            total: Tensor = (1 - share) * plain + share * moved.mean()
            return total

        def after(step: Step) -> None:
            if (
                step.last_of_epoch
                and step.epoch + 1 >= self.warm
                and (step.epoch + 1 - self.warm) % self.every == 0
            ):
                draws = Generator().manual_seed((seed + step.epoch) % 2**63)
                state.chosen = self.choose(step.model, data, rng=draws)
                state.order = torch.randperm(len(state.chosen.positions), generator=draws)
                state.seen = 0

        return loss, after


@dataclass
class _State:
    chosen: Chosen | None = None
    order: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    seen: int = 0


def facility(similar: np.ndarray[Any, Any], k: int) -> list[int]:
    """Greedy facility location, lazily: `k` columns that maximise sum_i max_j similar[i, j].

    Args:
        similar: non-negative, [n, n].
        k: columns to choose, at most n.

    Raises:
        InputError: if it is more.
    """
    if k > len(similar):
        raise InputError(f"facility: {k} columns were asked for; there are {len(similar)}.")
    best = np.zeros(len(similar))
    queue = [(-gain, j) for j, gain in enumerate(similar.sum(0))]
    heapq.heapify(queue)
    chosen: list[int] = []
    while len(chosen) < k:
        _, j = heapq.heappop(queue)
        gain = float(np.maximum(similar[:, j] - best, 0).sum())
        if not queue or -queue[0][0] <= gain:
            chosen.append(j)
            best = np.maximum(best, similar[:, j])
        else:
            heapq.heappush(queue, (-gain, j))
    return chosen


def _budgets(sizes: dict[int, int], total: int, shares: str) -> dict[int, int]:
    """How many of each class: never more than it has, exactly `total` in all."""
    n = sum(sizes.values())
    want = {c: total / len(sizes) if shares == "equal" else total * s / n for c, s in sizes.items()}
    given = {c: max(1, min(sizes[c], int(w))) for c, w in want.items()}
    while sum(given.values()) < total:
        open_ = [c for c in sizes if given[c] < sizes[c]]
        c = max(open_, key=lambda c: (want[c] - given[c], -given[c], -c))
        given[c] += 1
    while sum(given.values()) > total:
        given[max((c for c in given if given[c] > 1), key=lambda c: given[c] - want[c])] -= 1
    return given
