"""What short trainings share: a recipe whose optimiser can be changed, its start, and weights that fade meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from math import exp
from typing import Any, Protocol

import torch
from torch import Generator
from torch.nn import Module
from torch.optim import Optimizer

from ..fit import Step
from ..fit.recipe import warm_cosine_factor
from ..masks.mask import Mask
from ..random import seeded
from ..types import Data
from ._topology_edit import Origin


class Trainer(Origin, Protocol):
    """A recipe that can train a part of an epoch, with another optimiser; `Supervised` is one."""

    def train_(
        self,
        model: Module,
        data: Data[Any],
        *,
        epochs: float,
        lr: float,
        rng: Generator,
        hold: Mask | None = None,
        of: int | None = None,
        optimizer: Callable[..., Optimizer] | None = None,
        after_step: Callable[[Step], None] | None = None,
    ) -> None:
        """Train `model` in place; see `Supervised.train_`."""
        ...


def begins_alike(recipe: Trainer) -> bool:
    """Whether any matrix of the recipe's initial weights, constant ones aside, is the same at every draw."""
    first, second = recipe.initial(seeded(0)), recipe.initial(seeded(1))
    return any(
        torch.equal(a, b)
        for a, b in zip(first.parameters(), second.parameters(), strict=True)
        if a.ndim > 1 and bool((a != a.flatten()[0]).any())
    )


def fading(dose: float, steps: int, *, during: float = 1.0) -> Callable[[Step], None]:
    """For `fit_(after_step=...)`: shrinks every matrix a little after each step, by exp(-dose) over all of them.

    The share of the dose falls on the steps as a learning rate does that warms up and then follows half a cosine, so
    that what fades late is not left without time to heal.

    Args:
        dose: minus the logarithm of what is left.
        steps: of the training.
        during: share of them, the first, that it is given in.
    """
    factor = warm_cosine_factor(steps)
    parts = [factor(step) for step in range(max(1, round(during * steps)))]
    whole = sum(parts)

    @torch.no_grad()
    def fade(step: Step) -> None:
        if step.index <= len(parts):
            left = exp(-dose * parts[step.index - 1] / whole)
            for parameter in step.model.parameters():
                if parameter.ndim > 1 and parameter.requires_grad:
                    parameter.mul_(left)

    return fade
