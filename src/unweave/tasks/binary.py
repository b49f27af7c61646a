"""Two classes told apart by one logit, as most loops with `BCEWithLogitsLoss` have it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import Module

from ..errors import InputError
from ..types import Batch
from .batches import Reads, answers, only_input, target, under_last_linear, with_target


@dataclass(frozen=True)
class Binary:
    """One logit z an example, the log odds of class 1: binary cross-entropy as loss.

    Shown to methods and audits as two classes with the logits [-z/2, z/2], whose softmax is [1 - sigmoid(z),
    sigmoid(z)]: losses, confidences, margins and entropies are those of the one logit, to the last digit of its
    rounding. A model returns [n] or [n, 1], or an object with `.logits`; labels are 0 or 1, of any number type, [n] or
    [n, 1].

    Attributes:
        reads: of several inputs, how many lead a tuple, or their names; see `tasks.batches.Reads`.
    """

    reads: Reads = None

    @property
    def classes(self) -> int:
        """Two."""
        return 2

    def losses(self, model: Module, batch: Batch) -> Tensor:
        """Binary cross-entropy of each example in nats, float32 or wider, [n]."""
        logits = self.outputs(model, batch)
        return F.cross_entropy(logits, self.labels(batch).to(logits.device), reduction="none")

    def outputs(self, model: Module, batch: Batch) -> Tensor:
        """The logits [-z/2, z/2], float32 or wider, [n, 2].

        Raises:
            InputError: if the model returns more than one number an example.
        """
        z = answers(model, batch, self.reads)
        if z.ndim not in (1, 2) or z[:1].numel() != 1:
            raise InputError(
                f"the model's output has shape {tuple(z.shape)}; Binary reads one logit an example, [n] or [n, 1]. "
                "For a model with one output a class use Classify."
            )
        half = z.reshape(-1) / 2
        return torch.stack([-half, half], 1)

    def features(self, model: Module, batch: Batch) -> Tensor:
        """Input of the model's last linear layer, flattened to [n, width]."""
        return under_last_linear(model, lambda: self.outputs(model, batch))

    def labels(self, batch: Batch) -> Tensor:
        """Class of each example, int64 [n].

        Raises:
            InputError: if a label is neither 0 nor 1.
        """
        labels = target(batch, self.reads)
        if (
            labels.ndim not in (1, 2)
            or labels[:1].numel() != 1
            or bool(((labels != 0) & (labels != 1)).any())
        ):
            raise InputError(
                f"Binary takes one label an example, 0 or 1; got {labels.dtype} of shape {tuple(labels.shape)}"
                + (f" from {labels.min():g} to {labels.max():g}." if labels.numel() else ".")
            )
        return labels.reshape(-1).long()

    def relabel(self, batch: Batch, labels: Tensor) -> Batch:
        """The same batch with these labels, in the type and shape of its own."""
        own = target(batch, self.reads)
        return with_target(batch, labels.reshape(own.shape).to(own.dtype), self.reads)

    def inputs(self, batch: Batch) -> Tensor:
        """What the model reads, [n, ...].

        Raises:
            InputError: if it reads several things, or token ids.
        """
        inputs: Tensor = batch[only_input(batch, self.reads, "moving inputs")]
        return inputs

    def replace_inputs(self, batch: Batch, inputs: Tensor) -> Batch:
        """The same batch with these inputs."""
        at = only_input(batch, self.reads, "moving inputs")
        return {**batch, at: inputs} if isinstance(batch, Mapping) else (inputs, *batch[1:])
