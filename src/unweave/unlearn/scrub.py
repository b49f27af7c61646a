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
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torch.nn import Module
from torch.optim import Adam, Optimizer

from ..errors import InputError
from ..fit import Loop, fit_
from ..masks.mask import Mask
from ..paper import Paper
from ..tasks import Labelled, predict, read_labels
from ..types import Batch, Data, Request
from ._train import check_request, check_training, free, sgd

SMALL_DATA = 10_000
"""Training examples under which the paper's small-scale settings are meant."""


@dataclass(frozen=True, kw_only=True)
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
    needs: ClassVar[tuple[str, ...]] = ("forget", "retain", "labels")

    epochs: int = 10
    max_epochs: int = 3
    lr: float = 5e-4
    optimizer: Literal["adam", "sgd"] = "adam"
    momentum: float = 0.9
    weight_decay: float = 0.1
    temperature: float = 2.0
    alpha: float = 0.5
    gamma: float = 1.0
    forget_batch_size: int | None = 32
    decay_epochs: tuple[int, ...] = (3, 5, 9)
    decay: float = 0.1
    rewind: bool = False

    def __post_init__(self) -> None:
        check_training(self)
        if not 0 <= self.max_epochs <= self.epochs:
            raise InputError(
                f"SCRUB.max_epochs must be in 0..epochs = {self.epochs}; got {self.max_epochs}. "
                "It is how many of the epochs also push away from the teacher."
            )
        for name in ("temperature", "decay"):
            if getattr(self, name) <= 0:
                raise InputError(f"SCRUB.{name} must be positive; got {getattr(self, name)}.")
        if self.alpha < 0 or self.gamma < 0 or self.alpha + self.gamma == 0:
            raise InputError(
                f"SCRUB.alpha and gamma must not be negative, nor both 0; got {self.alpha}, {self.gamma}. "
                "They weigh the two terms that keep the retain set."
            )
        if self.forget_batch_size is not None and self.forget_batch_size < 1:
            raise InputError(f"SCRUB.forget_batch_size must be at least 1; got {self.forget_batch_size}.")
        if self.optimizer not in ("adam", "sgd"):
            raise InputError(f"SCRUB.optimizer must be 'adam' or 'sgd'; got {self.optimizer!r}.")

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
            InputError: if `rewind` is set and the held-out set lacks a class of the forget set.
            NonFiniteError: if the max steps diverge.
        """
        check_request("SCRUB", data, heldout=self.rewind)
        task, hold = data.retain.task, Mask.of(model)
        teacher, student = deepcopy(model).eval().requires_grad_(False), deepcopy(model)
        optimizer = self._optimizer(student)
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
            for group in optimizer.param_groups:
                group["lr"] = self.lr * self.decay ** sum(epoch >= at for at in self.decay_epochs)
            if epoch < self.max_epochs:
                fit_(
                    student, forget, away, optimizer,
                    epochs=1, rng=rng, hold=hold, only=only, loop=Loop(norms="frozen", label="scrub max"),
                )  # fmt: skip
            fit_(
                student, data.retain, stay, optimizer,
                epochs=1, rng=rng, hold=hold, only=only, loop=Loop(label="scrub min"),
            )  # fmt: skip
            if rewinder is not None:
                rewinder.keep(student)
        if rewinder is not None:
            rewinder.rewind_(student)
        return student

    def _optimizer(self, model: Module) -> Optimizer:
        if self.optimizer == "adam":
            return Adam(free("SCRUB", model.parameters()), self.lr, weight_decay=self.weight_decay)
        return sgd(self, model.parameters())


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
        wanted, there = read_labels(data.forget), read_labels(data.heldout)
        absent = sorted(set(wanted.tolist()) - set(there.tolist()))
        if absent:
            raise InputError(
                f"SCRUB.rewind compares errors on the forget set with held-out examples of the same classes; "
                f"the held-out set has none of class {', '.join(map(str, absent[:10]))}. "
                "Add some, or set rewind=False."
            )
        self.heldout = data.heldout.subset(torch.isin(there, wanted).nonzero().flatten())
        self.shares = {int(c): float((wanted == c).double().mean()) for c in set(wanted.tolist())}

    def keep(self, student: Module) -> None:
        self.errors.append(1 - float(_right(student, self.forget).double().mean()))
        self.kept.append(deepcopy(student.state_dict()))

    def rewind_(self, student: Module) -> None:
        right, labels = _right(student, self.heldout), read_labels(self.heldout)
        reference = sum(
            share * (1 - float(right[labels == c].double().mean())) for c, share in self.shares.items()
        )
        student.load_state_dict(self.kept[nearest(self.errors, reference)])


def nearest(errors: list[float], reference: float) -> int:
    """Position of the error nearest `reference`; of equally near ones the last."""
    return min(range(len(errors)), key=lambda i: (abs(errors[i] - reference), -i))


def _right(model: Module, data: Data[Labelled]) -> Tensor:
    return predict(model, data).argmax(-1) == read_labels(data)
