"""ProSparse: turn a language model's feed-forwards to ReLU and raise their activation sparsity step by step.

Song, Han, Zhang, Hu, Shi, Li, Chen, Liu, Li, Yang, Sun, "ProSparse: Introducing and Enhancing Intrinsic Activation
Sparsity within Large Language Models", 2024, arXiv 2402.13516: substitute ReLU, train with an L1 penalty on the gated
activations whose weight rises along sines, then shift the threshold (FATReLU).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from math import cos, pi
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor
from torch.nn import Module
from torch.optim import AdamW

from ...errors import InputError
from ...fit import Loop, fit_
from ...fit.recipe import warm_cosine
from ...masks.layers import copied
from ...masks.mask import Mask
from ...paper import Paper
from ...random import child
from ...settings import Count, NonNegative, Part, Positive, Share, settings
from ...tasks import CausalLM, evaluating, requires
from ...tasks.language import IGNORED
from ...types import Batch, Data
from .described import FATReLU, describe_
from .feed_forward import FeedForward, feed_forward


@settings
class ProSparse:
    """ReLU substitution, progressive L1, threshold: a model of transformers with gated feed-forwards (Llama's kind).

    The penalty is lambda times the mean, over layers and counted tokens, of ||x1||_1 / d_ff with x1 = relu(gate) * up:
    the authors' weights mean something only in their own reduction, so give `peaks` for yours; a first peak of one
    to five per cent of the language-model loss is a fair start. Padding counts nowhere. A model's own zeros stay zero.

    The result's configuration names its activation, so that transformers reads the saved model as it is: "relu" at
    threshold 0, "fatrelu(0.01)" above it, which transformers refuses until `register_fatrelu` was called.

    Attributes:
        relu: share of the steps that only adapt to ReLU.
        warm: share of the steps at the first peak, constant.
        peaks: lambda_1 < lambda_2 < ...; between two of them lambda rises along half a sine, in equal shares of the
            remaining steps, and the last is held for the rest.
        plateau: share of the steps at the last peak.
        threshold: of FATReLU in the end.
        epochs: passes over the data.
        lr: peak learning rate of AdamW, warmed up and let down along a cosine.
        weight_decay: of AdamW.
    """

    relu: Part = 0.2
    warm: Share = 0.2
    peaks: tuple[Positive, ...] = (0.05, 0.5)
    plateau: Share = 0.1
    threshold: NonNegative = 0.01
    epochs: Count = 1
    lr: Positive = 1e-3
    weight_decay: NonNegative = 0.01

    paper: ClassVar[Paper] = Paper(
        "ProSparse: Introducing and Enhancing Intrinsic Activation Sparsity within Large Language Models",
        "Song, Han, Zhang, Hu, Shi, Li, Chen, Liu, Li, Yang, Sun", "arXiv", 2024, "2402.13516",
    )  # fmt: skip

    def __post_init__(self) -> None:
        if self.relu + self.warm + self.plateau > 1:
            raise InputError(
                f"ProSparse: relu, warm and plateau are shares of at most 1 in all; got {self.relu}, {self.warm} and "
                f"{self.plateau}."
            )
        if not self.peaks or any(a >= b for a, b in pairwise(self.peaks)):
            raise InputError(f"ProSparse.peaks must be at least one, and rise; got {self.peaks}.")

    def penalty(self, step: int, steps: int) -> float:
        """Lambda at a step, counted from 0, of a training."""
        begin, sines = round(self.relu * steps), round((self.relu + self.warm) * steps)
        end = round((1 - self.plateau) * steps)
        if step < begin:
            return 0.0
        if step < sines or len(self.peaks) == 1:
            return self.peaks[0]
        if step >= end:
            return self.peaks[-1]
        rungs = len(self.peaks) - 1
        place = (step - sines) / max(1, end - sines) * rungs
        low, high = self.peaks[int(place)], self.peaks[int(place) + 1]
        return low + (high - low) * (1 - cos(pi * (place - int(place)))) / 2

    def apply(self, model: Module, data: Data[Any], *, rng: Generator) -> Module:
        """A trained copy of `model` with FATReLU feed-forwards.

        Raises:
            EmptyDataError: if `data` is empty.
            InputError: if the model has no gated feed-forward.
        """
        data.require_examples("ProSparse")
        requires(data.task, CausalLM, "ProSparse")
        sparse = substitute(model)
        steps = self.epochs * data.steps
        weights = [p for p in sparse.parameters() if p.requires_grad]
        optimizer = AdamW(weights, self.lr, weight_decay=self.weight_decay)
        schedule = warm_cosine(optimizer, steps)

        def loss(m: Module, batch: Batch) -> Tensor:
            scale = self.penalty(schedule.last_epoch, steps)  # its count of steps is part of a checkpoint
            with activations(m) as seen:
                total: Tensor = data.task.losses(m, batch).mean()
            if scale:
                counted = (data.task.labels(batch) != IGNORED).to(total.device)
                sizes = [x.float().abs().mean(-1)[counted].mean() for x in seen]
                total = total + scale * torch.stack(sizes).mean()
            return total

        fit_(
            sparse, data, loss, optimizer,
            epochs=self.epochs, rng=child(rng), loop=Loop(schedule=schedule, label="ProSparse"), hold=Mask.of(model),
        )  # fmt: skip
        return set_threshold_(sparse, self.threshold)


def feed_forwards(model: Module) -> list[FeedForward]:
    """The gated feed-forwards of a model, in order.

    Raises:
        InputError: if it has none.
    """
    found = [made for m in model.modules() if (made := feed_forward(m)) is not None]
    if not found:
        raise InputError(
            f"{type(model).__name__} has no gated feed-forward: a module with two linear layers to another width, one "
            "back, and an activation, as Llama's."
        )
    return found


def substitute(model: Module, threshold: float = 0.0) -> Module:
    """A copy whose feed-forwards use FATReLU."""
    return set_threshold_(copied(model), threshold)


def set_threshold_(model: Module, threshold: float) -> Module:
    """Give every feed-forward a FATReLU with this threshold, in place, and say so in the model's configuration."""
    for found in feed_forwards(model):
        setattr(found.block, found.name, FATReLU(threshold))
    describe_(model, threshold)
    return model


@contextmanager
def activations(model: Module) -> Iterator[list[Tensor]]:
    """Collect x1 = act(gate) * up of every feed-forward that is called in the block, [..., d_ff]."""
    seen: list[Tensor] = []
    hooks = [
        found.down.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        for found in feed_forwards(model)
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def activation_sparsity(model: Module, data: Data[Any]) -> list[float]:
    """Share of exact zeros among the activations of each feed-forward, over counted tokens, in [0, 1]."""
    zeros, total = torch.zeros(len(feed_forwards(model)), dtype=torch.float64), 0
    with evaluating(model):
        for batch in data.batches():
            counted = data.task.labels(batch) != IGNORED
            with activations(model) as seen:
                data.task.outputs(model, batch)
            total += int(counted.sum())
            zeros += torch.stack([(x == 0).double().mean(-1).cpu()[counted].sum() for x in seen])
    return (zeros / max(total, 1)).tolist()
