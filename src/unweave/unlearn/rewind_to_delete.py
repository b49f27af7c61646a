"""Rewind-to-delete (R2D): go back to an earlier checkpoint and end the training without the forgotten data.

Mu, Klabjan, "Rewind-to-Delete: Certified Machine Unlearning for Nonconvex Functions", 2024, arXiv 2409.09778.

theta <- checkpoint K steps before the end of the original training;  K steps of gradient descent on R;
theta <- theta + N(0, noise^2).

Certificate. Let every example's loss have an L-Lipschitz gradient (smoothness) of norm at most G, and both
trainings be full-batch gradient descent with step size eta: T - K steps on all n examples up to the
checkpoint, of which m are now forgotten, then K steps on R. Retraining on R from the same initial weights
differs from the rewound model by at most
    Delta = 2 m G / (n L) ((1 + eta L)^(T - K) - 1) (1 + eta L)^K,
since a step on n examples and one on R, from the same point, differ by at most 2 eta m G / n, and a step
multiplies a distance by at most 1 + eta L. With noise = Delta sqrt(2 ln(1.25 / delta)) / epsilon, epsilon <=
1, on both, they are (epsilon, delta)-indistinguishable (Gaussian mechanism). We derived Delta afresh: it has
the paper's form.

Departures: without a certificate, training goes on by batches with momentum, as the original was trained in
practice. Parameters that are frozen in the model keep the model's values, and its pruned weights stay pruned.
"""

from __future__ import annotations

from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Generator
from torch.nn import Module

from ..errors import InputError
from ..fit.recipe import mean_loss, warm_cosine
from ..io.checkpoint import load_into
from ..masks.layers import copied
from ..masks.mask import Mask
from ..paper import Paper
from ..random import child
from ..settings import Count, NonNegative, Part, Positive, settings
from ..types import Request
from ._certificate import Delta, Epsilon, certified, check_certifiable, gaussian_noise
from ._train import Trainee, check_request, sgd
from .suits import UNJUDGED, Unsuited

_CONSTANTS = ("smoothness", "gradient_bound", "steps_before", "epsilon", "delta")


@settings
class RewindToDelete:
    """Return to weights from before the end of training, and end the training on the retain set.

    Attributes:
        checkpoint: weights from before the end of the original training: a file or a model's folder, as
            `save_model` writes them.
        epochs: passes over the retain set from there; those that were left of the original training (the
            usual choice is the last 30 % of it).
        lr: learning rate of SGD from there; what the original's was at the checkpoint.
        momentum: of SGD.
        weight_decay: of SGD.
        schedule: "cosine" lets the learning rate fall to zero along half a cosine; or "constant".
        noise: standard deviation of Gaussian noise added to every trained weight at the end.
        smoothness: L, Lipschitz constant of the gradient of an example's loss; for a certificate.
        gradient_bound: G, largest gradient norm of an example's loss; for a certificate.
        steps_before: T - K, full-batch steps up to the checkpoint; for a certificate.
        epsilon: of the certificate.
        delta: of the certificate.
    """

    paper: ClassVar[Paper] = Paper(
        "Rewind-to-Delete: Certified Machine Unlearning for Nonconvex Functions",
        "Mu, Klabjan", "arXiv", 2024, "2409.09778",
    )  # fmt: skip
    unsuited: ClassVar[Unsuited] = {
        "random": "stops short of retrained models (position 0.85), at two thirds of the cost of one",
        "small": UNJUDGED,
    }

    checkpoint: str
    epochs: Count = 9
    lr: Positive = 0.02
    momentum: Part = 0.9
    weight_decay: NonNegative = 5e-4
    schedule: Literal["cosine", "constant"] = "cosine"
    noise: NonNegative = 0.0
    smoothness: Positive | None = None
    gradient_bound: Positive | None = None
    steps_before: Count | None = None
    epsilon: Epsilon | None = None
    delta: Delta | None = None

    def __post_init__(self) -> None:
        if not self.checkpoint:
            raise InputError("RewindToDelete.checkpoint must name a file of earlier weights; it is empty.")
        plain = not (self.momentum or self.weight_decay or self.noise) and self.schedule == "constant"
        if self.certified and not plain:
            raise InputError(
                "RewindToDelete certifies plain gradient descent and computes its own noise. "
                "Set momentum=0, weight_decay=0, noise=0 and schedule='constant'."
            )

    @property
    def certified(self) -> bool:
        """Whether all constants are given, so that the noise is the certificate's."""
        return certified(self, _CONSTANTS)

    def apply(self, model: Module, data: Request[Any], *, rng: Generator) -> Module:
        """Return a copy of `model` with the end of its training done again, on `data.retain` alone.

        Raises:
            EmptyDataError: if the forget or the retain set is empty.
            InputError: if the checkpoint is absent or of another network; or a certificate is asked for a
                network with running statistics, frozen or pruned weights, or its noise would be infinite.
            IntegrityError: if the checkpoint is damaged.
            NonFiniteError: if training diverges.
        """
        check_request("RewindToDelete", data, rng)
        hold, retain = Mask.of(model), data.retain
        noise = self.noise
        if self.certified:
            check_certifiable("RewindToDelete", model)
            noise = self.certified_noise(len(data.forget), len(data.forget) + len(retain))
            retain = replace(retain, batch_size=len(retain))
        student = Trainee.of("RewindToDelete", self._rewound(model), sgd(self), rng, hold=hold)
        steps = self.epochs * retain.steps
        schedule = warm_cosine(student.optimizer, steps, warm=0) if self.schedule == "cosine" else None
        student.train_(retain, mean_loss(retain), epochs=self.epochs, schedule=schedule, label="rewind")
        edited = student.model
        if noise:
            draws = child(rng)
            with torch.no_grad():
                for parameter in edited.parameters():
                    if parameter.requires_grad:
                        parameter.add_((noise * torch.randn(parameter.shape, generator=draws)).to(parameter))
            hold.apply_(edited)
        return edited

    def certified_noise(self, forgotten: int, total: int) -> float:
        """Standard deviation that the certificate asks for, for `forgotten` of `total` examples.

        Raises:
            InputError: if not all constants are given, or it is infinite.
        """
        if not self.certified:
            raise InputError(f"RewindToDelete needs all of {', '.join(_CONSTANTS)} for a certificate.")
        given: dict[str, Any] = {name: getattr(self, name) for name in _CONSTANTS}
        epsilon, delta = given.pop("epsilon"), given.pop("delta")
        distance = sensitivity(**given, lr=self.lr, steps_after=self.epochs, forgotten=forgotten, total=total)
        noise = gaussian_noise(distance, epsilon, delta)
        if not isfinite(noise):
            raise InputError(
                "RewindToDelete's certificate asks for infinite noise: fewer steps, or a smaller lr."
            )
        return noise

    def _rewound(self, model: Module) -> Module:
        earlier = load_into(model, Path(self.checkpoint)).state_dict()
        frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
        edited = copied(model)
        edited.load_state_dict({n: t for n, t in earlier.items() if n not in frozen}, strict=False)
        return edited


def sensitivity(
    *, smoothness: float, gradient_bound: float, lr: float,
    steps_before: int, steps_after: int, forgotten: int, total: int,
) -> float:  # fmt: skip
    """Delta: largest distance of the rewound model from one retrained by the same steps (module's text).

    Example:
        >>> sensitivity(
        ...     smoothness=1, gradient_bound=1, lr=1, steps_before=1, steps_after=1, forgotten=1, total=2
        ... )
        2.0
    """
    growth = 1 + lr * smoothness
    try:
        grown = (growth**steps_before - 1) * growth**steps_after
    except OverflowError:
        return float("inf")
    return 2 * forgotten * gradient_bound / (total * smoothness) * grown
