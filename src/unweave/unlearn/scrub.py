"""SCRUB: push a student away from its teacher on the forget set, and keep it near on the rest.

Kurmanji, Triantafillou, Hayes, Triantafillou, "Towards Unbounded Machine Unlearning", NeurIPS 2023, arXiv
2302.09880.

With teacher t = the original model, frozen in eval mode, and student s started from it, an epoch is
    max step, first `max_epochs` epochs only:  maximise over F   KL_T(t || s)
    min step, every epoch:                     minimise over R   alpha KL_T(t || s) + gamma CE(s)
    KL_T(t || s) = T^2 / n * sum over n examples of KL(softmax(t / T) || softmax(s / T)).
The last step is always a min step. SCRUB+R ("rewind") ends at the epoch whose error on F is nearest the error
that the finished student makes on held-out examples of F's classes, so that F looks neither known nor
suspiciously unknown.

Departures: in max steps batch normalisation uses its running statistics and leaves them, where the authors'
code averages those of F into the model to be released. Held-out errors are weighted by F's class shares.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torch.nn import Module
from torch.optim import Adam

from ..errors import InputError
from ..masks.layers import copied
from ..masks.mask import Mask
from ..paper import Paper
from ..settings import Count, NonNegative, Part, Positive, Range, Whole, refuse_idle, settings
from ..tasks import Labelled, accuracy, read_labels, requires
from ..types import Batch, Data, Request
from ._train import Trainee, check_request, sgd
from .suits import UNJUDGED, Unsuited

SMALL_DATA = 10_000
"""Training examples under which the paper's small-scale settings are meant."""


@settings
class SCRUB:
    """Forget by teaching: away from the old model on the forget set, near it on the retain set.

    The defaults are the paper's small-scale settings, for fewer than 10,000 training examples;
    `SCRUB.large()` has the large-scale ones and `SCRUB.of_size(n)` chooses.

    Attributes:
        epochs: passes over the retain set (min steps).
        max_epochs: of the first epochs, how many begin with a pass over the forget set (max steps, "msteps").
        lr: learning rate of both steps.
        optimizer: "adam" or "sgd".
        momentum: of SGD; Adam does not use it.
        weight_decay: L2 penalty of the optimiser.
        temperature: T, softens the outputs that are compared.
        alpha: weight of staying near the teacher on retain data.
        gamma: weight of the training loss on retain data.
        forget_batch_size: examples a batch in max steps; None takes the data's own.
        decay_epochs: epochs after which `lr` is multiplied by `decay`.
        decay: factor of `lr` at each of `decay_epochs`.
        rewind: SCRUB+R: return the epoch whose forget error is nearest the held-out one. Reads the held-out
            set, and keeps one copy of the weights an epoch. Meant for random examples, not for a class that
            must go.
    """

    paper: ClassVar[Paper] = Paper(
        title="Towards Unbounded Machine Unlearning",
        authors="Kurmanji, Triantafillou, Hayes, Triantafillou",
        venue="NeurIPS",
        year=2023,
        arxiv="2302.09880",
    )
    unsuited: ClassVar[Unsuited] = {
        "class": "stops short of retrained models at its defaults (position 0.16 to 0.91)",
        "random": "hardly forgets at its defaults (position 0.10 to 0.22)",
        "small": UNJUDGED,
    }

    epochs: Count = 10
    max_epochs: Annotated[
        int, Range(at_least=0, why="It is how many of the epochs also push away from the teacher.")
    ] = 3
    lr: Positive = 5e-4
    optimizer: Literal["adam", "sgd"] = "adam"
    momentum: Part = 0.9
    weight_decay: NonNegative = 0.1
    temperature: Positive = 2.0
    alpha: NonNegative = 0.5
    gamma: NonNegative = 1.0
    forget_batch_size: Count | None = 32
    decay_epochs: tuple[Whole, ...] = (3, 5, 9)
    decay: Positive = 0.1
    rewind: bool = False

    def __post_init__(self) -> None:
        if self.max_epochs > self.epochs:
            raise InputError(
                f"SCRUB.max_epochs must be at most epochs = {self.epochs}; got {self.max_epochs}. "
                "It is how many of the epochs also push away from the teacher."
            )
        if self.alpha + self.gamma == 0:
            raise InputError(
                "SCRUB.alpha and gamma must not both be 0. They weigh the two terms that keep the retain set."
            )
        if self.optimizer == "adam":
            refuse_idle(self, "momentum", when="with optimizer='adam'")
        if self.max_epochs == 0:
            refuse_idle(self, "forget_batch_size", when="with max_epochs=0")
            if self.alpha == 0:
                refuse_idle(self, "temperature", when="with max_epochs=0 and alpha=0")
        if not any(epoch < self.epochs for epoch in self.decay_epochs):
            refuse_idle(self, "decay", when="where no epoch is one of decay_epochs")

    @classmethod
    def large(cls) -> SCRUB:
        """The paper's large-scale settings: SGD, three epochs, two of them with a max step."""
        return cls(
            epochs=3,
            max_epochs=2,
            optimizer="sgd",
            weight_decay=5e-4,
            temperature=4.0,
            alpha=0.001,
            gamma=0.99,
        )

    @classmethod
    def of_size(cls, examples: int) -> SCRUB:
        """The paper's settings for a training set (forget and retain) of this many examples."""
        return cls() if examples < SMALL_DATA else cls.large()

    def apply(
        self, model: Module, data: Request[Labelled], *, rng: Generator, only: Mask | None = None
    ) -> Module:
        """Return a copy of `model` that has moved away from it on `data.forget`.

        Args:
            model: the teacher; left unchanged.
            data: the held-out set is read only to rewind.
            rng: governs batch order.
            only: positions that may move; all others keep their bits.

        Raises:
            EmptyDataError: if the forget or the retain set is empty.
            InputError: if the task has no labels, or `rewind` is set and the held-out set lacks a class of
                the forget set.
            NonFiniteError: if the max steps diverge.
        """
        check_request(
            "SCRUB", data, rng, ["forget", "retain", "heldout"] if self.rewind else ["forget", "retain"]
        )
        task = data.retain.task
        requires(task, Labelled, "SCRUB")
        teacher = copied(model).eval().requires_grad_(False)
        adam = partial(Adam, lr=self.lr, weight_decay=self.weight_decay)
        make = adam if self.optimizer == "adam" else sgd(self)
        student = Trainee.of("SCRUB", copied(model), make, rng, only=only)
        forget = replace(data.forget, batch_size=self.forget_batch_size or data.forget.batch_size)
        rewinder = _Rewinder(data) if self.rewind else None

        def drift(student: Module, batch: Batch) -> Tensor:
            with torch.no_grad():
                known = task.outputs(teacher, batch)
            return distillation(known, task.outputs(student, batch), self.temperature)

        def away(student: Module, batch: Batch) -> Tensor:
            return -drift(student, batch)

        def stay(student: Module, batch: Batch) -> Tensor:
            return self.alpha * drift(student, batch) + self.gamma * task.losses(student, batch).mean()

        for epoch in range(self.epochs):
            for group in student.optimizer.param_groups:
                group["lr"] = self.lr_of(epoch)
            if epoch < self.max_epochs:
                student.train_(forget, away, norms="frozen", label="scrub max")
            student.train_(data.retain, stay, label="scrub min")
            if rewinder is not None:
                rewinder.keep(student.model)
        if rewinder is not None:
            rewinder.rewind_(student.model)
        return student.model

    def lr_of(self, epoch: int) -> float:
        """Learning rate of an epoch, from 0.

        Example:
            >>> method = SCRUB(lr=1.0, decay_epochs=(1, 3), decay=0.5)
            >>> [method.lr_of(epoch) for epoch in range(4)]
            [1.0, 0.5, 0.5, 0.25]
        """
        return self.lr * self.decay ** sum(epoch >= at for at in self.decay_epochs)


def distillation(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    """KL_T(teacher || student) of logits [n, classes]: T^2 times the examples' mean KL divergence, in nats.

    Example:
        >>> student = torch.tensor([[1.0, 3.0]]).log()
        >>> distillation(torch.zeros(1, 2), student, 1.0)  # log(2 / sqrt(3))
        tensor(0.1438)
    """
    known, learned = (teacher / temperature).log_softmax(-1), (student / temperature).log_softmax(-1)
    return temperature**2 * F.kl_div(learned, known, reduction="batchmean", log_target=True)


class _Rewinder:
    """SCRUB+R: remembers each epoch's weights and forget error, and goes back to the least telling one."""

    def __init__(self, data: Request[Labelled]) -> None:
        self.forget, self.kept, self.errors = data.forget, list[dict[str, Tensor]](), list[float]()
        self.alike = by_class(data)

    def keep(self, student: Module) -> None:
        self.errors.append(100 - accuracy(student, self.forget))
        self.kept.append(deepcopy(student.state_dict()))

    def rewind_(self, student: Module) -> None:
        student.load_state_dict(self.kept[nearest(self.errors, heldout_error(student, self.alike))])


def by_class(data: Request[Labelled]) -> list[tuple[float, Data[Labelled]]]:
    """For each class of the forget set its share there, and the held-out examples of that class.

    Raises:
        InputError: if the held-out set lacks a class of the forget set.
    """
    wanted, there = read_labels(data.forget), read_labels(data.heldout)
    absent = sorted(set(wanted.tolist()) - set(there.tolist()))
    if absent:
        raise InputError(
            f"SCRUB.rewind compares errors on the forget set with held-out examples of the same classes; "
            f"the held-out set has none of class {', '.join(map(str, absent[:10]))}. "
            "Add some, or set rewind=False."
        )
    return [
        (float((wanted == c).double().mean()), data.heldout.subset((there == c).nonzero().flatten()))
        for c in sorted(set(wanted.tolist()))
    ]


def heldout_error(model: Module, alike: list[tuple[float, Data[Labelled]]]) -> float:
    """Error, in %, on held-out examples of the forget set's classes, in the forget set's shares."""
    return sum(share * (100 - accuracy(model, data)) for share, data in alike)


def nearest(errors: list[float], reference: float) -> int:
    """Position of the error nearest `reference`; of equally near ones the last."""
    return min(range(len(errors)), key=lambda i: (abs(errors[i] - reference), -i))
