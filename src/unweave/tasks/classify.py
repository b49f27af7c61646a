"""Classification: (inputs, labels) batches, several inputs, and the dictionaries of transformers' classifiers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor
from torch.nn import Module

from ..errors import InputError
from ..types import Batch
from .batches import Reads, answers, only_input, target, under_last_linear, with_target

_NO_CLASS = -(2**62)  # torch would pass over its own default, -100, in silence


@dataclass(frozen=True)
class Classify:
    """One label an example, cross-entropy loss, logits as output.

    A batch is a pair (inputs [n, ...], labels [n]); a tuple (input, ..., input, labels) with `reads` their number; or a
    dictionary with `labels` and what transformers' classifiers read: `pixel_values`, or `input_ids` with its
    `attention_mask`. A model returns logits [n, classes], or an object with `.logits`.

    Attributes:
        classes: how many classes there are; at least 2.
        reads: of several inputs, how many lead a tuple, or their names in a dictionary; see `tasks.batches.Reads`.
    """

    classes: int
    reads: Reads = None

    def __post_init__(self) -> None:
        if self.classes < 2:
            raise InputError(f"Classify.classes must be at least 2; got {self.classes}.")

    def __repr__(self) -> str:
        reads = "" if self.reads is None else f", reads={self.reads!r}"
        return f"Classify(classes={self.classes}{reads})"

    def losses(self, model: Module, batch: Batch) -> Tensor:
        """Cross-entropy of each example in nats, float32 or wider, [n].

        Raises:
            InputError: if a label is not from 0 to `classes` - 1.
        """
        logits = self.outputs(model, batch)
        labels = self.labels(batch).to(logits.device)
        try:
            return F.cross_entropy(logits, labels, reduction="none", ignore_index=_NO_CLASS)
        except IndexError as error:
            raise InputError(
                f"labels must lie from 0 to {self.classes - 1}, as Classify.classes is {self.classes}; got labels from "
                f"{labels.min()} to {labels.max()}. Count classes from 0, or give Classify more classes."
            ) from error

    def outputs(self, model: Module, batch: Batch) -> Tensor:
        """Logits, float32 or wider, [n, classes]."""
        logits = answers(model, batch, self.reads)
        if logits.ndim != 2 or logits.shape[1] != self.classes:
            one = " For a model with one logit give data of tasks.Binary." * (self.classes == 2)
            raise InputError(
                f"the model's output has shape {tuple(logits.shape)}; a classifier of {self.classes} classes must "
                f"return [n, {self.classes}].{one}"
            )
        return logits

    def features(self, model: Module, batch: Batch) -> Tensor:
        """Input of the model's last linear layer, flattened to [n, width]."""
        return under_last_linear(model, lambda: self.outputs(model, batch))

    def labels(self, batch: Batch) -> Tensor:
        """Class of each example, int64 [n].

        Raises:
            InputError: if labels are no whole numbers.
        """
        labels = target(batch, self.reads)
        if labels.is_floating_point() or labels.is_complex():
            raise InputError(
                f"labels must be whole numbers; got {labels.dtype}. Classify is for one class an example."
            )
        return labels.long()

    def relabel(self, batch: Batch, labels: Tensor) -> Batch:
        """The same batch with these labels."""
        return with_target(batch, labels, self.reads)

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
