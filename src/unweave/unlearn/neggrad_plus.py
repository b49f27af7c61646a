"""NegGrad+: descend on the retain set and ascend on the forget set in the same step.

Minimises a * CE_R - (1 - a) * CE_F (Kurmanji, Triantafillou, Hayes, Triantafillou, "Towards Unbounded Machine
Unlearning", NeurIPS 2023, arXiv 2302.09880, where it is the strengthened NegGrad baseline). Each step reads
one batch of the retain set and one of the forget set, which is gone through as often as needed.

Departure: a forgotten example whose loss has reached `cap` is not pushed further. Without one, as published, the
loss of a deleted class grows without end and takes the rest along: of one class of ten 20 to 43 % of the retained
examples were still right on Fashion-MNIST, with a cap of 8 nats 98 % and more.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from torch import Generator, Tensor
from torch.nn import Module

from ..fit.batches import Paired
from ..masks.layers import copied
from ..masks.mask import Mask
from ..paper import Paper
from ..settings import Count, NonNegative, Part, Positive, Range, refuse_idle, settings
from ..types import Batch, Request
from ._train import Trainee, check_request, sgd
from .suits import UNJUDGED, Unsuited


@settings
class NegGradPlus:
    """Hold the rest while pushing the forget set away.

    Attributes:
        epochs: passes over the retain set; 5 to 10 in the literature.
        lr: learning rate of SGD.
        alpha: a, weight of the retain set's loss against 1 - a for the forget set's; 0.9 to 0.999 in the
            literature. 1 is fine-tuning.
        momentum: of SGD.
        weight_decay: of SGD.
        cap: largest loss in nats of a forgotten example that is still pushed up: 8 is about what models that
            never saw a class have on it. None pushes without end, as published, and ruins the model.
        norms: "train" lets the running statistics of batch normalisation follow both batches, "frozen" keeps
            them.
    """

    epochs: Count = 5
    lr: Positive = 0.01
    alpha: Annotated[float, Range(at_least=0, at_most=1, why="It weighs the retain set (usual: 0.95).")] = (
        0.95
    )
    momentum: Part = 0.9
    weight_decay: NonNegative = 5e-4
    cap: Positive | None = 8.0
    norms: Literal["train", "frozen"] = "train"

    paper: ClassVar[Paper] = Paper(
        "Towards Unbounded Machine Unlearning",
        "Kurmanji, Triantafillou, Hayes, Triantafillou", "NeurIPS", 2023, "2302.09880",
    )  # fmt: skip
    unsuited: ClassVar[Unsuited] = {
        "class": "hides a class at the output more than it forgets it (position 0.07 to 1.00)",
        "random": "hardly forgets single examples (position 0.00 to 0.12)",
        "small": UNJUDGED,
    }

    def __post_init__(self) -> None:
        if self.alpha == 1:
            refuse_idle(self, "cap", when="with alpha=1, which pushes nothing away")

    def apply(self, model: Module, data: Request[Any], *, rng: Generator, only: Mask | None = None) -> Module:
        """Return a copy of `model`, trained towards the retain set and away from the forget set.

        Args:
            model: left unchanged.
            data: forget and retain set are trained on.
            rng: governs both batch orders.
            only: positions that may move; all others keep their bits.

        Raises:
            EmptyDataError: if the forget or the retain set is empty.
            InputError: if every parameter is frozen.
            NonFiniteError: if training diverges; raise alpha, lower lr, or set cap.
        """
        check_request("NegGradPlus", data, rng)
        task = data.retain.task

        def tug(m: Module, pair: tuple[Batch, Batch]) -> Tensor:
            keep, drop = (task.losses(m, batch) for batch in pair)
            pushed = drop if self.cap is None else drop.clamp(max=self.cap)
            loss: Tensor = self.alpha * keep.mean() - (1 - self.alpha) * pushed.mean()
            return loss

        student = Trainee.of("NegGradPlus", copied(model), sgd(self), rng, only=only)
        both = Paired(data.retain, data.forget)
        student.train_(both, tug, epochs=self.epochs, norms=self.norms, label="NegGrad+")
        return student.model
