"""l1-sparse: fine-tune on the retain set under an l1 penalty that fades away.

Jia, Liu, Ram, Yao, Liu, Liu, Sharma, Liu, "Model Sparsity Can Simplify Machine Unlearning", NeurIPS 2023,
arXiv 2304.04934, section 4: minimise CE_R(theta) + gamma_t * ||theta||_1, the norm over all parameters,
biases and normalisations among them, with gamma_t = gamma * (1 - t / (T - T0)) in epoch t < T - T0 and 0 in
the last T0.

Departures. No weight decay: the published code adds it to the penalty, which shrinks twice. The paper gives
no rule for gamma, and the right value depends on the model's size and the number of steps; unless given,
gamma is such that the penalty alone, over the whole run, would move a weight by the mean size of a weight.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Generator, Tensor
from torch.nn import Module, Parameter

from ..errors import InputError
from ..masks.layers import copied, free
from ..masks.mask import Mask
from ..paper import Paper
from ..settings import Count, Part, Positive, Whole, settings
from ..types import Batch, Request
from ._train import Trainee, check_request, sgd
from .suits import UNJUDGED, Unsuited


@settings
class L1Sparse:
    """Shrink every weight while the retain set is trained on; what only the forget set held up falls.

    Attributes:
        epochs: T, passes over the retain set.
        no_l1_epochs: T0, passes at the end without the penalty.
        gamma: penalty at the start, in nats per unit of ||theta||_1; falls linearly over the epochs. None:
            such that the penalty alone would move a weight by the mean |weight| in all. If the accuracy on
            the retain set falls below 95 % of what it was, it is too large; if the forget set keeps its
            accuracy, too small.
        lr: learning rate of SGD.
        momentum: of SGD.
        norms: "train" lets the running statistics of batch normalisation follow the retain set, "frozen"
            keeps them.
    """

    epochs: Count = 10
    no_l1_epochs: Whole = 0
    gamma: Positive | None = None
    lr: Positive = 0.01
    momentum: Part = 0.9
    norms: Literal["train", "frozen"] = "train"

    paper: ClassVar[Paper] = Paper(
        "Model Sparsity Can Simplify Machine Unlearning",
        "Jia, Liu, Ram, Yao, Liu, Liu, Sharma, Liu", "NeurIPS", 2023, "2304.04934",
    )  # fmt: skip
    unsuited: ClassVar[Unsuited] = {
        "class": "stops short of retrained models (position 0.49 to 0.80; at lr=0.1 0.48 to 1.00)",
        "random": "stops short of retrained models (position 0.38 to 0.40; at lr=0.1 0.58 to 0.86)",
        "small": UNJUDGED,
    }

    def __post_init__(self) -> None:
        if self.no_l1_epochs >= self.epochs:
            raise InputError(
                f"L1Sparse.no_l1_epochs must be below epochs; got {self.no_l1_epochs} of {self.epochs}. "
                "With no epoch under the penalty this is FineTune."
            )

    def apply(self, model: Module, data: Request[Any], *, rng: Generator, only: Mask | None = None) -> Module:
        """Return a copy of `model` trained on the retain set under the fading penalty.

        Args:
            model: left unchanged.
            data: the forget set is not read, but must not be empty.
            rng: governs batch order.
            only: positions that may move; all others keep their bits.

        Raises:
            EmptyDataError: if the forget or the retain set is empty.
            InputError: if every parameter is frozen.
            NonFiniteError: if training diverges.
        """
        check_request("L1Sparse", data, rng)
        task, student = data.retain.task, Trainee.of("L1Sparse", copied(model), sgd(self), rng, only=only)
        moving = free("L1Sparse", student.model)
        gamma = self.scale(moving, data.retain.steps) if self.gamma is None else self.gamma
        for epoch, share in enumerate(self.shares()):

            def shrink(m: Module, batch: Batch, now: float = gamma * share) -> Tensor:
                loss: Tensor = task.losses(m, batch).mean()
                return loss + now * _l1(moving) if now else loss

            student.train_(
                data.retain, shrink, norms=self.norms, label=f"l1-sparse {epoch + 1}/{self.epochs}"
            )
        return student.model

    def shares(self) -> list[float]:
        """gamma_t / gamma for each epoch.

        Example:
            >>> L1Sparse(epochs=5, no_l1_epochs=1).shares()
            [1.0, 0.75, 0.5, 0.25, 0.0]
        """
        under = self.epochs - self.no_l1_epochs
        return [max(0.0, 1 - epoch / under) for epoch in range(self.epochs)]

    def scale(self, parameters: list[Parameter], steps_per_epoch: int) -> float:
        """The gamma at which lr / (1 - momentum) * (sum of gamma_t over all steps) is the mean |weight|."""
        living = sum(int(torch.count_nonzero(p)) for p in parameters)
        pull = self.lr / (1 - self.momentum) * steps_per_epoch * sum(self.shares())
        return float(_l1(parameters).detach()) / max(1, living) / pull


def _l1(parameters: list[Parameter]) -> Tensor:
    return torch.stack(
        [p.abs().sum(dtype=torch.promote_types(p.dtype, torch.float32)) for p in parameters]
    ).sum()
