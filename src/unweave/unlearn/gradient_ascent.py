"""Gradient ascent: climb the forget set's loss until the model errs there as on examples it never saw.

theta <- theta + lr * grad CE_F(theta), known as GA or NegGrad: Thudi, Deza, Chandrasekaran, Papernot,
"Unrolling
SGD: Understanding Factors Influencing Machine Unlearning", EuroS&P 2022, arXiv 2109.13398, section 6.

The loss has no upper end, so published recipes stop at a fixed number of epochs, and either do nothing or
ruin the model. Here two brakes are on unless taken off: no example is pushed past a cap, and training ends
with the epoch in which the accuracy on the forget set has come down to a target.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from math import log
from typing import ClassVar, Literal

from torch import Generator, Tensor
from torch.nn import Module

from ..errors import InputError
from ..fit import Loop, Step, fit_
from ..masks.mask import Mask
from ..paper import Paper
from ..tasks import Labelled
from ..types import Batch, Request
from ._train import accuracy, check_request, check_training, expected_accuracy, sgd


@dataclass(frozen=True, kw_only=True)
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

    epochs: int = 100
    lr: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 5e-4
    target: float | None = None
    cap: float | Literal["chance"] | None = "chance"
    clip: float | None = None
    norms: Literal["train", "frozen"] = "frozen"

    paper: ClassVar[Paper] = Paper(
        "Unrolling SGD: Understanding Factors Influencing Machine Unlearning",
        "Thudi, Deza, Chandrasekaran, Papernot", "EuroS&P", 2022, "2109.13398",
    )  # fmt: skip
    needs: ClassVar[tuple[str, ...]] = ("forget", "retain", "heldout", "labels")

    def __post_init__(self) -> None:
        check_training(self)
        if self.target is not None and not 0 <= self.target < 1:
            raise InputError(
                f"GradientAscent.target must be in [0, 1); got {self.target}. It is the accuracy on the "
                f"forget set "
                "at which to stop."
            )
        if not (self.cap in ("chance", None) or (isinstance(self.cap, (int, float)) and self.cap > 0)):
            raise InputError(f"GradientAscent.cap must be positive, 'chance' or None; got {self.cap!r}.")
        if self.clip is not None and not self.clip > 0:
            raise InputError(f"GradientAscent.clip must be positive or None; got {self.clip}.")

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
            InputError: if every parameter is frozen.
            NonFiniteError: if training diverges.
        """
        data.forget.require_examples("GradientAscent (forget set)")
        if self.target is None:
            check_request("GradientAscent", data, heldout=True)
        goal = expected_accuracy(model, data) if self.target is None else self.target
        task, edited = data.forget.task, deepcopy(model)
        cap = log(task.classes) if self.cap == "chance" else self.cap

        def fall(m: Module, batch: Batch) -> Tensor:
            losses = task.losses(m, batch)
            return -(losses if cap is None else losses.clamp(max=cap)).mean()

        def enough(step: Step) -> None:
            step.stop = step.last_of_epoch and accuracy(step.model, data.forget) <= goal

        fit_(
            edited, data.forget, fall, sgd(self, edited.parameters()), epochs=self.epochs, rng=rng,
            hold=Mask.of(model), only=only, after_step=enough,
            loop=Loop(clip=self.clip, norms=self.norms, label="gradient ascent"),
        )  # fmt: skip
        return edited
