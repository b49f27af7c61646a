"""A pruned model trained on in a job, and what is to be told of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator
from torch.nn import Module

from ..fit.recipe import Supervised
from ..masks.mask import Mask
from ..prune.paser import PASER
from ..prune.recovery import Recovery
from ..random import child
from ..types import Data

_ADAMW = Supervised(network=Module, optimizer=torch.optim.AdamW, recover_lr=1e-3)
"""What recovers a model whose recipe can only train as a whole."""


def by_recipe_(
    recipe: Any, model: Module, data: Data[Any], *, epochs: int, lr: float | None, rng: Generator
) -> list[str]:
    """Train a pruned model on as it was trained, or by AdamW where the recipe can hold no mask.

    Args:
        recipe: of the model, or None.
        model: changed in place.
        data: trained on.
        epochs: passes over it.
        lr: peak learning rate; the recipe's own unless given.
        rng: of the training.

    Returns:
        What is to be told of it, in sentences.
    """
    own = hasattr(recipe, "train_")
    again: Any = recipe if own else _ADAMW
    again.train_(model, data, epochs=epochs, lr=lr or again.recover_lr, rng=rng, hold=Mask.of(model))
    if own:
        return []
    return [
        f"recovered by AdamW at a peak learning rate of {lr or again.recover_lr:g} (cosine) on the task's plain loss "
        f"for {epochs} passes, not as the model was trained: its recipe can hold no mask."
    ]


def as_asked_(
    how: Recovery, model: Module, data: Data[Any], *, original: Module, instructions: Data[Any] | None, chooser: PASER,
    rng: Generator,
) -> list[str]:  # fmt: skip
    """Train a pruned model on in a way of its own, on the data at hand or on chosen instructions.

    Args:
        how: the way.
        model: changed in place.
        data: trained on where there are no instructions.
        original: the model before it was pruned.
        instructions: to choose from; None trains on `data`.
        chooser: chooses.
        rng: of the choice and of the training.

    Returns:
        What is to be told of it, in sentences.
    """
    told = []
    if instructions is not None:
        chosen = chooser.select(original, model, instructions, rng=child(rng))
        data = instructions.subset(chosen.positions)
        told = [
            f"PASER chose {len(data):,} of {len(instructions):,} instructions to recover on; it passed over "
            f"{100 * chosen.rejection_rate:.0f} % of those that it looked at, since they contradict chosen ones."
        ]
    done = how.train_(model, data, original=original, rng=rng)
    return [
        *told,
        f"Recovered by {how.by} on {len(data):,} examples for {how.epochs} passes ({done.steps:,} steps) with "
        f"{done.by}; pruned weights stayed zero.",
    ]
