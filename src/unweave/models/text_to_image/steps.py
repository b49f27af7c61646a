"""Steps of training that draw their own examples: pictures, times and noise, and no pass over a data set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn import Module, Parameter
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import TensorDataset

from ...fit import Fit, Loop, Step, fit_
from ...masks.mask import Mask
from ...types import Data
from .layers import training_only


def train_steps_(
    model: Module,
    objective: Callable[[int], Tensor],
    weights: Sequence[Parameter],
    optimizer: Optimizer,
    *,
    steps: int,
    rng: Generator,
    label: str,
    fresh: bool = False,
    only: Mask | None = None,
    clip: float | None = None,
    schedule: LRScheduler | None = None,
    after_step: Callable[[Step], None] | None = None,
) -> Fit:
    """Minimise an objective that draws its own examples from torch's global generator, which `fit_` seeds.

    Args:
        model: trained in place; every flag and mode ends as it began.
        objective: from the number of a step, from 0, its loss.
        weights: that may move.
        optimizer: over them.
        steps: of the optimiser.
        rng: governs the run.
        label: shown beside the progress bar.
        fresh: the weights were made for this training, so that exact zeros among them are beginnings. Otherwise such
            zeros were pruned, and stay.
        only: positions that may move; None for all.
        clip: largest global gradient norm.
        schedule: stepped after every step.
        after_step: see `fit_`.
    """
    data = Data(TensorDataset(torch.arange(steps)), _NothingToRead(), 1)
    with training_only(model, weights):
        return fit_(
            model, data, lambda _, batch: objective(int(batch[0])), optimizer, epochs=1, rng=rng,
            hold=None if fresh else Mask.of(model), only=only,
            loop=Loop(clip=clip, schedule=schedule, ordered=True, label=label), after_step=after_step,
        )  # fmt: skip


def pick(n: int, among: int) -> Tensor:
    """As many positions below `among` from torch's global generator, int64."""
    return torch.randint(among, (n,))


def noise_like(x: Tensor) -> Tensor:
    """Standard normal noise from torch's global CPU generator, the same whatever the device."""
    return torch.randn(x.shape).to(x.device, x.dtype)


class _NothingToRead:
    """The task of data that only counts steps."""

    def losses(self, model: Module, batch: Any) -> Tensor:
        raise NotImplementedError

    outputs = losses
