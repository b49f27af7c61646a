"""Random labels: train the forget set towards wrong classes while the rest is trained on as it was.

Minimises CE(f(x), y') over the forget set F, y' drawn uniformly from the classes other than the true one, and
alpha * CE(f(x), y) over the retain set R. Golatkar, Achille, Soatto, "Eternal Sunshine of the Spotless Net",
CVPR 2020, arXiv 1911.04933, and Graves, Nagisetty, Ganesh, "Amnesiac Machine Learning", AAAI 2021, arXiv
2010.10981; the form with alpha is equation 6 of SalUn (Fan et al., ICLR 2024, arXiv 2310.12508).

Published code draws from all classes, so that one label in C is the true one; here y' != y always, as the
papers say.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from torch import Generator, Tensor
from torch.nn import Module

from ..fit.batches import Mixed
from ..masks.layers import copied
from ..masks.mask import Mask
from ..paper import Paper
from ..settings import Count, NonNegative, Part, Positive, Range, settings
from ..tasks import Labelled, requires
from ..types import Batch, Request
from ._train import Trainee, check_request, sgd
from .suits import UNJUDGED, Unsuited


@settings
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

    epochs: Count = 10
    lr: Positive = 0.01
    momentum: Part = 0.9
    weight_decay: NonNegative = 5e-4
    alpha: Annotated[float, Range(at_least=0, why="It weighs the retain set.")] = 1.0
    order: Literal["sequential", "mixed"] = "sequential"
    norms: Literal["train", "frozen"] = "train"

    paper: ClassVar[Paper] = Paper(
        "Amnesiac Machine Learning", "Graves, Nagisetty, Ganesh", "AAAI", 2021, "2010.10981"
    )
    unsuited: ClassVar[Unsuited] = {
        "class": "hides a class at the output more than it forgets it (position 0.24 to 0.98)",
        "random": "stops short of retrained models, and can be told by its answers (position 0.63 to 0.87)",
        "small": UNJUDGED,
    }

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
            InputError: if every parameter is frozen, or the task has no labels.
            NonFiniteError: if training diverges.
        """
        check_request("RandomLabels", data, rng)
        task = data.forget.task
        requires(task, Labelled, "RandomLabels")
        student = Trainee.of("RandomLabels", copied(model), sgd(self), rng, only=only)

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

            student.train_(mixed, both, epochs=self.epochs, norms=self.norms, label="random labels")
            return student.model
        passes = [(data.forget, wrong)] + ([(data.retain, right)] if self.alpha else [])
        for epoch in range(self.epochs):
            for part, objective in passes:
                label = f"random labels {epoch + 1}/{self.epochs}"
                student.train_(part, objective, norms=self.norms, label=label)
        return student.model


def wrong_labels(labels: Tensor, classes: int) -> Tensor:
    """For each label another class, drawn uniformly from torch's global generator; int64 [n]."""
    shift = torch.randint(1, classes, labels.shape).to(labels.device)
    return (labels + shift) % classes
