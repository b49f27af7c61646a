"""Random labels: train the forget set towards wrong classes while the rest is trained on as it was.

Minimises CE(f(x), y') over the forget set F, y' drawn uniformly from the classes other than the true one, and
alpha * CE(f(x), y) over the retain set R. Golatkar, Achille, Soatto, "Eternal Sunshine of the Spotless Net",
CVPR 2020, arXiv 1911.04933, and Graves, Nagisetty, Ganesh, "Amnesiac Machine Learning", AAAI 2021, arXiv
2010.10981; the form with alpha is equation 6 of SalUn (Fan et al., ICLR 2024, arXiv 2310.12508).

Published code draws from all classes, so that one label in C is the true one; here y' != y always, as the
papers say.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Generator, Tensor
from torch.nn import Module

from ..errors import InputError
from ..fit import Loop, fit_
from ..fit.batches import Mixed
from ..masks.mask import Mask
from ..paper import Paper
from ..tasks import Labelled
from ..types import Batch, Request
from ._train import check_request, check_training, sgd


@dataclass(frozen=True, kw_only=True)
class RandomLabels:
    """Relabel what must go, at random and wrongly, anew in each epoch; train on both.

    With two classes there is one wrong label, so the model learns the opposite of the truth on the forget
    set: expect it to be confidently wrong there, where a retrained model would be unsure.

    Attributes:
        epochs: passes over the forget and the retain set.
        lr: learning rate of SGD; 0.003 to 0.013 in the literature. It sets how strongly the set is forgotten.
        momentum: of SGD.
        weight_decay: of SGD.
        alpha: weight of the retain set's loss; 0 leaves that set out.
        order: "sequential" goes through all of the forget set, then all of the retain set, in each epoch;
            "mixed" shuffles them into one pass.
        norms: "train" lets the running statistics of batch normalisation follow the batches, "frozen" keeps
            them.
    """

    epochs: int = 10
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    alpha: float = 1.0
    order: Literal["sequential", "mixed"] = "sequential"
    norms: Literal["train", "frozen"] = "train"

    paper: ClassVar[Paper] = Paper(
        "Amnesiac Machine Learning", "Graves, Nagisetty, Ganesh", "AAAI", 2021, "2010.10981"
    )
    needs: ClassVar[tuple[str, ...]] = ("forget", "retain", "labels")

    def __post_init__(self) -> None:
        check_training(self)
        if not self.alpha >= 0:
            raise InputError(
                f"RandomLabels.alpha must not be negative; got {self.alpha}. It weighs the retain set."
            )

        if self.order not in ("sequential", "mixed"):
            raise InputError(f"RandomLabels.order must be sequential or mixed; got {self.order!r}.")

    def apply(
        self, model: Module, data: Request[Labelled], *, rng: Generator, only: Mask | None = None
    ) -> Module:
        """Return a copy of `model` that was trained on wrong labels for the forget set.

        Args:
            model: left unchanged.
            data: a labelled task.
            rng: governs batch order and the labels drawn.
            only: positions that may move; all others keep their bits.

        Raises:
            EmptyDataError: if the forget or the retain set is empty.
            InputError: if every parameter is frozen.
            NonFiniteError: if training diverges.
        """
        check_request("RandomLabels", data)
        task, edited, hold = data.forget.task, deepcopy(model), Mask.of(model)
        optimizer = sgd(self, edited.parameters())

        def wrong(m: Module, batch: Batch) -> Tensor:
            return task.losses(m, task.relabel(batch, wrong_labels(task.labels(batch), task.classes))).mean()

        def right(m: Module, batch: Batch) -> Tensor:
            return self.alpha * task.losses(m, batch).mean()

        if self.order == "mixed":
            mixed = Mixed(data.forget, data.retain)

            def both(m: Module, part: tuple[Batch, Tensor]) -> Tensor:
                batch, positions = part
                labels = task.labels(batch)
                forgets = (positions < len(mixed.first)).to(labels.device)
                labels = torch.where(forgets, wrong_labels(labels, task.classes), labels)
                losses = task.losses(m, task.relabel(batch, labels))
                return (losses * torch.where(forgets.to(losses.device), 1.0, self.alpha)).mean()

            fit_(
                edited, mixed, both, optimizer, epochs=self.epochs, rng=rng, hold=hold, only=only,
                loop=Loop(norms=self.norms, label="random labels"),
            )  # fmt: skip
            return edited
        passes = [(data.forget, wrong)] + ([(data.retain, right)] if self.alpha else [])
        for epoch in range(self.epochs):
            for part, objective in passes:
                fit_(
                    edited, part, objective, optimizer, epochs=1, rng=rng, hold=hold, only=only,
                    loop=Loop(norms=self.norms, label=f"random labels {epoch + 1}/{self.epochs}"),
                )  # fmt: skip
        return edited


def wrong_labels(labels: Tensor, classes: int) -> Tensor:
    """For each label another class, drawn uniformly from torch's global generator; int64 [n]."""
    shift = torch.randint(1, classes, labels.shape).to(labels.device)
    return (labels + shift) % classes
