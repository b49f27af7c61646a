"""Boundary shrink: give each forgotten example to the class across its nearest boundary.

Chen, Gao, Liu, Peng, Wang, "Boundary Unlearning: Rapid Forgetting of Deep Networks via Shifting the Decision
Boundary", CVPR 2023, arXiv 2303.11570, section 4.1.

One step towards the boundary, x' = clip(x + step sign(grad_x CE(theta_o; x, y))), names the nearest wrong
class y' = argmax over classes other than y of f(theta_o; x'); then the model is fine-tuned on (x, y') for x
in F alone.

Departures: where the step does not leave class y, the paper's argmax is y itself and the example would be
learned again; the runner-up is taken. Pixels are not rounded to 1/255. Batch normalisation keeps its running
statistics, since those of F alone would fit no other data.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Generator, Tensor
from torch.nn import Module

from ..errors import InputError
from ..masks.layers import copied
from ..masks.mask import Mask
from ..paper import Paper
from ..settings import Count, NonNegative, Number, Part, Positive, settings
from ..tasks import Perturbing, evaluating, requires
from ..types import Batch, Data, Request
from ._train import Trainee, check_request, sgd
from .suits import UNJUDGED, Unsuited

PAPER = Paper(
    title="Boundary Unlearning: Rapid Forgetting of Deep Networks via Shifting the Decision Boundary",
    authors="Chen, Gao, Liu, Peng, Wang",
    venue="CVPR",
    year=2023,
    arxiv="2303.11570",
)


@settings
class BoundaryShrink:
    """Relabel each forgotten example with its nearest wrong class and fine-tune on these alone.

    Attributes:
        epochs: passes over the forget set.
        lr: learning rate of SGD; search 1e-5..1e-2.
        momentum: of SGD.
        weight_decay: of SGD.
        step: length of the step towards the boundary, in units of the inputs (the paper's are pixels from 0
            to 1).
        low: least value an input may take; None reads it off the forget set.
        high: largest value an input may take; None reads it off the forget set.
    """

    paper: ClassVar[Paper] = PAPER
    unsuited: ClassVar[Unsuited] = {
        "class": "hides a class at the output more than it forgets it (position 0.26 to 1.00)",
        "random": "ruins the rest (held-out accuracy fell by 7 to 34 points)",
        "small": UNJUDGED,
    }

    epochs: Count = 10
    lr: Positive = 1e-3
    momentum: Part = 0.9
    weight_decay: NonNegative = 5e-4
    step: Positive = 0.1
    low: Number | None = None
    high: Number | None = None

    def __post_init__(self) -> None:
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise InputError(f"BoundaryShrink.low must lie below high; got {self.low} and {self.high}.")

    def apply(
        self, model: Module, data: Request[Perturbing], *, rng: Generator, only: Mask | None = None
    ) -> Module:
        """Return a copy of `model` that gives `data.forget` to neighbouring classes; reads nothing else.

        Args:
            model: left unchanged.
            data: only its forget set is read.
            rng: governs batch order.
            only: positions that may move; all others keep their bits.

        Raises:
            EmptyDataError: if the forget set is empty.
            InputError: if the task cannot move its inputs, or they are not floating point.
        """
        check_request("BoundaryShrink", data, rng, ["forget"])
        task = data.forget.task
        requires(task, Perturbing, "BoundaryShrink")
        original = copied(model).requires_grad_(False)
        low, high = input_range(data.forget)
        low, high = low if self.low is None else self.low, high if self.high is None else self.high

        def cross(student: Module, batch: Batch) -> Tensor:
            across = nearest_wrong(original, task, batch, step=self.step, low=low, high=high)
            return task.losses(student, task.relabel(batch, across)).mean()

        student = Trainee.of("BoundaryShrink", copied(model), sgd(self), rng, only=only)
        student.train_(data.forget, cross, epochs=self.epochs, norms="frozen", label="boundary shrink")
        return student.model


def nearest_wrong(
    model: Module, task: Perturbing, batch: Batch, *, step: float, low: float, high: float
) -> Tensor:
    """Wrong class that `model` finds likeliest after one sign step up the loss, int64 [n]."""
    inputs = task.inputs(batch).detach().clone().requires_grad_()
    labels = task.labels(batch)
    with evaluating(model), torch.enable_grad():
        (slope,) = torch.autograd.grad(task.losses(model, task.replace_inputs(batch, inputs)).sum(), inputs)
        with torch.no_grad():
            moved = (inputs + step * slope.sign()).clamp(low, high)
            logits = task.outputs(model, task.replace_inputs(batch, moved)).to(labels.device)
    return logits.scatter(1, labels[:, None], -torch.inf).argmax(1)


def input_range(data: Data[Perturbing]) -> tuple[float, float]:
    """Least and largest value of any input.

    Raises:
        InputError: if inputs are not floating point.
    """
    low, high = torch.inf, -torch.inf
    for batch in data.batches():
        inputs = data.task.inputs(batch)
        if not inputs.is_floating_point():
            raise InputError(
                f"BoundaryShrink moves inputs a little, so they must be floating point; got {inputs.dtype}."
            )
        low, high = min(low, float(inputs.min())), max(high, float(inputs.max()))
    return low, high
