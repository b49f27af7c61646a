"""What the trained end of the ladder shares: training that stops at its best epoch, a threshold for a precision."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch.nn import Module

from ...errors import InputError
from ...fit import Loop, Step, fit_
from ...random import seeded
from ...statistics import Floats
from ...tasks import predict
from ...tasks.classify import Classify
from ...types import Data


def trained(
    net: Module,
    data: Data[Classify],
    held: Data[Classify],
    y: Any,
    known: Any,
    *,
    epochs: int,
    lr: float,
    patience: int,
    seed: int,
    label: str,
) -> tuple[Module, int]:
    """Train a network on comments whose classes weigh alike; the state of the epoch of best F1, and how many.

    Args:
        net: trained in place.
        data: comments to train on.
        held: comments aside, on which epochs are judged.
        y: labels of `data`, 0 and 1.
        known: labels of `held`.
        epochs: at most.
        lr: of Adam.
        patience: epochs without a better F1 before it ends.
        seed: of orders and dropout.
        label: shown beside the progress.
    """
    weights = torch.tensor(len(y) / (2 * np.bincount(y, minlength=2)), dtype=torch.float32)
    optimizer = torch.optim.AdamW((p for p in net.parameters() if p.requires_grad), lr=lr, weight_decay=0.0)
    best = _Best(net, held, known, patience)

    def objective(m: Module, batch: Any) -> torch.Tensor:
        w = weights[data.task.labels(batch)]
        return (w * data.task.losses(m, batch)).sum() / w.sum()

    fit_(
        net, data, objective, optimizer, epochs=epochs, rng=seeded(seed), loop=Loop(clip=1.0, label=label),
        after_step=best.look,
    )  # fmt: skip
    net.load_state_dict(best.state)
    return net.eval(), best.epoch + 1


def threshold_for(probability: Floats, y: Any, precision: float) -> float:
    """The lowest threshold at which this share of what is found is right.

    Args:
        probability: of a problem, [n].
        y: 0 or 1, [n].
        precision: to be reached.

    Raises:
        InputError: if no threshold reaches it.
    """
    order = np.argsort(-probability, kind="stable")
    p = probability[order]
    right = np.cumsum(y[order]) / np.arange(1, len(y) + 1)
    ends = np.append(p[1:] < p[:-1], True)  # equal probabilities are found together
    reached = np.flatnonzero((right >= precision) & ends)
    if not len(reached):
        raise InputError(
            f"ReviewClassifier.precision={precision:g} is reached at no threshold on the {len(y)} comments set aside; "
            f"the best is {max(right[ends]):.3f}. Ask for less."
        )
    return float(p[reached[-1]])


class _Best:
    """The state of a network at the epoch of its best F1 on comments aside, and when to stop.

    Attributes:
        state: of that epoch.
        epoch: which, from 0.
    """

    def __init__(self, net: Module, held: Data[Classify], y: Any, patience: int) -> None:
        self.net, self.held, self.y, self.patience = net, held, y, patience
        self.f1, self.epoch = -math.inf, 0
        self.state: dict[str, torch.Tensor] = {}

    def look(self, step: Step) -> None:
        """After the last step of an epoch."""
        if not step.last_of_epoch:
            return
        said = predict(self.net, self.held).argmax(1).numpy()
        f1 = 2 * int((said & self.y).sum()) / max(1, int(said.sum() + self.y.sum()))
        if f1 > self.f1:
            self.f1, self.epoch = f1, step.epoch
            self.state = {n: t.detach().clone() for n, t in self.net.state_dict().items()}
        step.stop = step.epoch - self.epoch >= self.patience
