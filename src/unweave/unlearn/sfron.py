"""SFR-on: ascend on the forget set where its Fisher information is the larger, descend on the rest.

Huang, Cheng, Zheng, Wang, He, Li, Huang, "Unified Gradient-Based Machine Unlearning with Remain Geometry
Enhancement", NeurIPS 2024, arXiv 2409.19732.

Saliency: m_j = 1 where I_F,j >= I_R,j, with I the mean squared gradient over batches, once at the original
weights. Every `every`-th step on R is preceded by one step up the weighted loss on F,
    c_t * mean over the batch of w_i CE_i,    w_i proportional to CE_i^-lambda with mean 1 (held constant),
its gradient multiplied by m and cut to norm `clip`; c_t and the learning rate fall along half a cosine.
Examples that are forgotten already (large CE) weigh less, so the ascent stays bounded in practice.

Departures: the paper counts 1,500 steps on R for CIFAR-10 in batches of 128, which is 4.3 passes over it; the
default is four passes over any data set. Its averaging of slow weights is off in its published settings
and left out. On steps on F batch normalisation uses its running statistics and leaves them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import cos, pi
from typing import Annotated, Any, ClassVar

from torch import Generator, Tensor
from torch.nn import Module
from torch.nn.utils import clip_grad_norm_
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR

from ..fit.batches import cycled
from ..masks.layers import copied, free, running_norms
from ..masks.mask import Mask
from ..paper import Paper
from ..random import child
from ..settings import Count, NonNegative, Part, Positive, Range, refuse_idle, settings
from ..types import Batch, Data, Request
from ._train import Trainee, check_request
from .ssd import importance
from .suits import UNJUDGED, Unsuited

_TINY = 1e-15
"""Added to both Fisher values, so that a weight without any gradient is salient, as in the authors' code."""


@settings
class SFRon:
    """Masked, self-weighting ascent on the forget set, interleaved with training on the retain set.

    Attributes:
        epochs: passes over the retain set; 4.3 are the paper's 1,500 steps on CIFAR-10.
        every: steps on the retain set for one on the forget set.
        lr: learning rate of both at the start; falls to zero along half a cosine.
        momentum: of SGD, shared by both kinds of step.
        weight_decay: of SGD.
        coefficient: c_0, weight of the ascent at the start; falls with the learning rate.
        exponent: lambda, how much less an example weighs for having a large loss already; 0 weighs all alike.
        clip: largest norm of the masked ascent gradient.
    """

    paper: ClassVar[Paper] = Paper(
        "Unified Gradient-Based Machine Unlearning with Remain Geometry Enhancement",
        "Huang, Cheng, Zheng, Wang, He, Li, Huang", "NeurIPS", 2024, "2409.19732",
    )  # fmt: skip
    unsuited: ClassVar[Unsuited] = {
        "random": "hardly forgets single examples (position 0.00 to 0.29)",
        "small": UNJUDGED,
    }

    epochs: Count = 4
    every: Annotated[int, Range(at_least=1, why="It is the retain steps a forget step.")] = 5
    lr: Positive = 0.01
    momentum: Part = 0.9
    weight_decay: NonNegative = 5e-4
    coefficient: NonNegative = 25.0
    exponent: NonNegative = 0.5
    clip: Positive = 7.0

    def __post_init__(self) -> None:
        if self.coefficient == 0:
            refuse_idle(self, "exponent", "clip", when="with coefficient=0, which ascends nowhere")

    def apply(self, model: Module, data: Request[Any], *, rng: Generator) -> Module:
        """Return a copy of `model` moved up the loss of `data.forget` and down that of `data.retain`.

        Raises:
            EmptyDataError: if the forget or the retain set is empty.
            InputError: if all parameters are frozen.
            NonFiniteError: if the ascent diverges.
        """
        check_request("SFRon", data, rng)
        free("SFRon", model)
        task = data.retain.task
        salient = fisher_mask(importance(model, data.forget), importance(model, data.retain))
        steps = Interleaved(data.forget, data.retain, self.every, self.epochs)
        make = partial(
            _AscentSGD, salient=list(salient.keep.values()), clip=self.clip,
            lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay,
        )  # fmt: skip
        student = Trainee.of("SFRon", copied(model), make, rng)
        optimizer = student.optimizer
        assert isinstance(optimizer, _AscentSGD)

        def objective(edited: Module, batch: tuple[bool, Batch]) -> Tensor:
            optimizer.ascends, examples = batch
            with _norms_frozen(edited, optimizer.ascends):
                losses: Tensor = task.losses(edited, examples)
            if optimizer.ascends:
                c = self.coefficient * optimizer.param_groups[0]["lr"] / self.lr
                losses = -c * adaptive_weights(losses, self.exponent) * losses
            return losses.mean()

        schedule = LambdaLR(optimizer, lambda t: 0.5 * (1 + cos(pi * min(1.0, t / steps.count))))
        student.train_(steps, objective, schedule=schedule, label="sfr-on")
        return student.model


def fisher_mask(on_forget: dict[str, Tensor], on_retain: dict[str, Tensor]) -> Mask:
    """Positions whose Fisher information is at least as large on the forget set."""
    return Mask({name: (f + _TINY) / (on_retain[name] + _TINY) >= 1 for name, f in on_forget.items()})


def adaptive_weights(losses: Tensor, exponent: float) -> Tensor:
    """losses^-exponent scaled to mean 1, [n], without gradient; losses below 1e-8 count as that.

    Example:
        >>> import torch
        >>> adaptive_weights(torch.tensor([1.0, 4.0]), 0.5)
        tensor([1.3333, 0.6667])
    """
    weights = losses.detach().clamp_min(1e-8) ** -exponent
    return weights / weights.mean()


@dataclass(frozen=True)
class Interleaved:
    """Batches (ascends, batch): one of `forget` before each `every` batches of `retain`.

    Both are cycled and reshuffled each cycle, until `passes` over `retain` are done.
    """

    forget: Data[Any]
    retain: Data[Any]
    every: int
    passes: int

    batch_size: int = 1
    """A batch counts as one example, so that `len` is the number of steps."""

    @property
    def count(self) -> int:
        """Steps of both kinds."""
        descents = self.passes * self.retain.steps
        return descents + -(-descents // self.every)

    def __len__(self) -> int:
        return self.count

    def batches(
        self,
        rng: Generator | None = None,
        *,
        start: int = 0,
        part: tuple[int, int] = (0, 1),
        join: bool = False,
    ) -> Iterator[tuple[bool, Batch]]:
        """Yield the batches; see `Data.batches`."""
        cycle = self.every + 1
        ups, downs = -(-start // cycle), start - -(-start // cycle)
        forget = cycled(self.forget, None if rng is None else child(rng), ups, part, join)
        retain = cycled(self.retain, None if rng is None else child(rng), downs, part, join)
        for step in range(start, self.count):
            ascends = step % cycle == 0
            yield ascends, next(forget if ascends else retain)


class _AscentSGD(SGD):
    """SGD that keeps only the salient part of an ascent's gradient, cut to a norm."""

    def __init__(self, parameters: list[Any], salient: list[Tensor], *, clip: float, **settings: Any) -> None:
        super().__init__(parameters, **settings)
        self.salient, self.clip, self.ascends = list(zip(parameters, salient, strict=True)), clip, False

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        assert closure is not None
        loss = closure()
        if self.ascends:
            for parameter, chosen in self.salient:
                if parameter.grad is not None:
                    parameter.grad.mul_(chosen)
            clip_grad_norm_([p for p, _ in self.salient], self.clip)
        super().step()
        return loss


@contextmanager
def _norms_frozen(model: Module, frozen: bool) -> Iterator[None]:
    """Batch normalisation in eval mode inside the block, if `frozen`."""
    norms = [m for m in running_norms(model) if m.training] if frozen else []
    for norm in norms:
        norm.eval()
    try:
        yield
    finally:
        for norm in norms:
            norm.train()
