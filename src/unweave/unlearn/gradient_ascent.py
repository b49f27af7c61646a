"""Gradient ascent: climb the forget set's loss until the model errs there as on examples it never saw.

theta <- theta + lr * grad CE_F(theta), known as GA or NegGrad: Thudi, Deza, Chandrasekaran, Papernot,
"Unrolling SGD: Understanding Factors Influencing Machine Unlearning", EuroS&P 2022, arXiv 2109.13398,
section 6.

The loss has no upper end, so published recipes stop at a fixed number of epochs, and either do nothing or
ruin the model. Here two brakes are on unless taken off: no example is pushed past a cap, and training ends
with the epoch in which the accuracy on the forget set has come down to a target.
"""

from __future__ import annotations

from math import log
from typing import Annotated, ClassVar, Literal

from torch import Generator, Tensor
from torch.nn import Module

from ..fit import Step
from ..masks.layers import copied
from ..masks.mask import Mask
from ..paper import Paper
from ..settings import Count, NonNegative, Part, Positive, Range, settings
from ..tasks import Labelled, accuracy, requires
from ..types import Batch, Request
from ._train import Trainee, check_request, expected_accuracy, sgd
from .suits import UNJUDGED, Unsuited


@settings
class GradientAscent:
    """Unlearn by training backwards, with brakes.

    Attributes:
        epochs: most passes over the forget set; fewer are made once the target is reached.
        lr: learning rate of SGD; 1e-5 to 1e-3 in the literature, for many steps an epoch.
        momentum: of SGD.
        weight_decay: of SGD.
        target: accuracy on the forget set, as a share, at which to stop. None: what a model would reach that
            never saw it, estimated as held-out accuracy times the share of the forget set whose class is
            still retained. Read after each epoch, so at least one is made.
        cap: largest loss of an example in nats that is still climbed; "chance" is ln(classes), that of a
            uniform guess; None climbs without end, as published.
        clip: largest norm of the gradient; None does not clip.
        norms: "frozen" leaves the running statistics of batch normalisation as they are, so that they do not
            come to describe the forget set alone; "train" lets them follow it.
    """

    epochs: Count = 100
    lr: Positive = 1e-3
    momentum: Part = 0.9
    weight_decay: NonNegative = 5e-4
    target: (
        Annotated[
            float, Range(at_least=0, below=1, why="It is the accuracy on the forget set at which to stop.")
        ]
        | None
    ) = None
    cap: Positive | Literal["chance"] | None = "chance"
    clip: Positive | None = None
    norms: Literal["train", "frozen"] = "frozen"

    paper: ClassVar[Paper] = Paper(
        "Unrolling SGD: Understanding Factors Influencing Machine Unlearning",
        "Thudi, Deza, Chandrasekaran, Papernot", "EuroS&P", 2022, "2109.13398",
    )  # fmt: skip
    unsuited: ClassVar[Unsuited] = {
        "random": "ruins the rest (held-out accuracy fell by 10 to 20 points)",
        "small": UNJUDGED,
    }

    def apply(
        self, model: Module, data: Request[Labelled], *, rng: Generator, only: Mask | None = None
    ) -> Module:
        """Return a copy of `model` that was trained backwards on the forget set.

        Args:
            model: left unchanged.
            data: retain and held-out set are read only to set the target; neither is trained on.
            rng: governs batch order.
            only: positions that may move; all others keep their bits.

        Raises:
            EmptyDataError: if the forget set is empty, or another set is and `target` is None.
            InputError: if every parameter is frozen, or the task has no labels.
            NonFiniteError: if training diverges.
        """
        check_request("GradientAscent", data, rng, ["forget"])
        task = data.forget.task
        requires(task, Labelled, "GradientAscent")
        if self.target is None:
            check_request("GradientAscent", data, rng, ["retain", "heldout"])
        goal = expected_accuracy(model, data) if self.target is None else 100 * self.target
        cap = log(task.classes) if self.cap == "chance" else self.cap

        def fall(m: Module, batch: Batch) -> Tensor:
            losses = task.losses(m, batch)
            return -(losses if cap is None else losses.clamp(max=cap)).mean()

        def enough(step: Step) -> None:
            step.stop = step.last_of_epoch and accuracy(step.model, data.forget) <= goal

        student = Trainee.of("GradientAscent", copied(model), sgd(self), rng, only=only)
        student.train_(
            data.forget, fall, epochs=self.epochs, norms=self.norms, clip=self.clip, after_step=enough,
            label="gradient ascent",
        )  # fmt: skip
        return student.model
