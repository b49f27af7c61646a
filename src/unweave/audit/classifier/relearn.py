"""Relearn time: a model that only hides the data learns them again sooner than one that never saw them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator
from torch.nn import Module
from torch.optim import Adam

from ...fit import Loop, Step, fit_
from ...fit.recipe import mean_loss
from ...masks.layers import copied
from ...masks.mask import Mask
from ...random import child, seeded
from ...tasks import predict
from ...types import Data

CAP = 200
"""Steps at which relearning is given up."""
USUAL = {True: 60, False: 20}
"""Whether whole classes go -> steps by which the time of a retrained model is foreseen; measured were 10 to 130."""
MOST = 300


def mean_loss_of(model: Module, data: Data[Any]) -> float:
    """Mean loss over `data` in eval mode, in the task's unit."""
    return float(predict(model, data, data.task.losses).double().mean())


def sampled(forget: Data[Any], seed: int) -> Data[Any]:
    """At most 300 of the forget set: what every model compared learns again."""
    if len(forget) <= MOST:
        return forget
    return forget.subset(torch.randperm(len(forget), generator=seeded(seed))[:MOST])


def relearn_steps(
    model: Module,
    data: Data[Any],
    target: float,
    *,
    rng: Generator,
    lr: float = 1e-3,
    cap: int = CAP,
    every: int = 2,
) -> int:
    """Adam steps on `data` until its mean loss is at most `target`.

    The "anamnesis" idea of Chundawat et al. (2023, arXiv 2201.05629), counted in steps: how soon a model
    comes back to the original's loss on the forget set. Batch statistics stay as they are and pruned weights
    stay pruned.

    Args:
        model: left unchanged.
        data: the forget set.
        target: loss to come back to: the original's, times 1 + a.
        rng: order of the examples.
        lr: of Adam, the same for all models compared.
        cap: most steps.
        every: steps between two looks at the loss.

    Returns:
        0 to `cap`; `cap` also where the target was not reached.
    """
    if mean_loss_of(model, data) <= target:
        return 0
    trained = copied(model)
    for parameter in trained.parameters():
        parameter.requires_grad_(True)
    taken = cap

    def watch(step: Step) -> None:
        nonlocal taken
        reached = step.index % every == 0 and mean_loss_of(trained, data) <= target
        if reached:
            taken = min(step.index, cap)
        step.stop = reached or step.index >= cap

    optimizer = Adam(trained.parameters(), lr)
    epochs = -(-cap // data.steps) + 1
    fit_(
        trained,
        data,
        mean_loss(data),
        optimizer,
        epochs=epochs,
        rng=child(rng),
        hold=Mask.of(trained),
        after_step=watch,
        loop=Loop(norms="frozen"),
    )
    return taken
