"""Several labels an example, each there or not."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor
from torch.nn import Module

from ..errors import InputError
from ..types import Batch, Data
from .batches import Reads, answers, target, under_last_linear


@dataclass(frozen=True)
class MultiLabel:
    """k labels an example, each 0 or 1: mean binary cross-entropy over them, one logit a label.

    It is not `Labelled`: no example is of one class, so that methods and figures that need classes refuse it by name.
    An audit reads the loss of each example as -log of the probability of its labels (their geometric mean).

    Attributes:
        count: k; at least 2.
        reads: of several inputs, how many lead a tuple, or their names; see `tasks.batches.Reads`.
    """

    count: int
    reads: Reads = None

    def __post_init__(self) -> None:
        if self.count < 2:
            raise InputError(
                f"MultiLabel.count must be at least 2; got {self.count}. For one label use Binary."
            )

    def losses(self, model: Module, batch: Batch) -> Tensor:
        """Mean binary cross-entropy of each example's labels in nats, float32 or wider, [n]."""
        logits = self.outputs(model, batch)
        wanted = self.targets(batch).to(logits)
        return F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").mean(1)

    def outputs(self, model: Module, batch: Batch) -> Tensor:
        """Logits, float32 or wider, [n, k].

        Raises:
            InputError: if the model returns another shape.
        """
        logits = answers(model, batch, self.reads)
        if logits.ndim != 2 or logits.shape[1] != self.count:
            raise InputError(
                f"the model's output has shape {tuple(logits.shape)}; for {self.count} labels it must return "
                f"[n, {self.count}]."
            )
        return logits

    def features(self, model: Module, batch: Batch) -> Tensor:
        """Input of the model's last linear layer, flattened to [n, width]."""
        return under_last_linear(model, lambda: self.outputs(model, batch))

    def targets(self, batch: Batch) -> Tensor:
        """Which labels each example has, 0 or 1, [n, k].

        Raises:
            InputError: if they are anything else.
        """
        found = target(batch, self.reads)
        if found.ndim != 2 or found.shape[1] != self.count or bool(((found != 0) & (found != 1)).any()):
            raise InputError(
                f"MultiLabel takes labels [n, {self.count}], each 0 or 1; got {found.dtype} of shape "
                f"{tuple(found.shape)}."
            )
        return found

    @property
    def ability(self) -> tuple[str, str]:
        """Name and unit of `measure`."""
        return "labels right", "%"

    def measure(self, model: Module, data: Data[MultiLabel]) -> float:
        """Labels that are told rightly, over all examples and labels, in %."""
        from . import predict

        right = predict(model, data, lambda m, b: (self.outputs(m, b) > 0).cpu() == (self.targets(b) == 1))
        return 100 * float(right.double().mean())
