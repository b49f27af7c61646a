"""Classification: (inputs, labels) batches, several inputs, and the dictionaries of transformers' classifiers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import Module

from ..errors import InputError
from ..types import Batch
from .batches import Reads, answers, only_input, place_of_target, under_last_linear, with_target

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
        if len(labels) != len(logits):
            raise InputError(
                f"a batch has {len(labels)} labels, and the model answers with {len(logits)} rows. Give each one."
            )
        try:
            return F.cross_entropy(logits, labels, reduction="none", ignore_index=_NO_CLASS)
        except IndexError as error:  # inside torch.func, where `labels` cannot be looked at before
            raise InputError(
                f"labels must lie from 0 to {self.classes - 1}, as Classify.classes is {self.classes}. Count classes "
                "from 0, or give Classify more classes."
            ) from error

    def outputs(self, model: Module, batch: Batch) -> Tensor:
        """Logits, float32 or wider, [n, classes]."""
        logits = answers(model, batch, self.reads)
        if logits.ndim != 2 or logits.shape[1] != self.classes:
            raise InputError(
                f"the model's output has shape {tuple(logits.shape)}; a classifier of {self.classes} classes must "
                f"return [n, {self.classes}].{_misfit(logits, self.classes)}"
            )
        return logits

    def features(self, model: Module, batch: Batch) -> Tensor:
        """Input of the model's last linear layer, flattened to [n, width]."""
        return under_last_linear(model, lambda: self.outputs(model, batch))

    def labels(self, batch: Batch) -> Tensor:
        """Class of each example, int64 [n].

        Raises:
            InputError: if labels are not one whole number from 0 to `classes` - 1 an example.
        """
        return read_classes(batch[place_of_target(batch, self.reads)], self.classes)

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


def read_classes(labels: Any, classes: int) -> Tensor:
    """Labels of a batch as one class an example, int64 [n].

    Args:
        labels: as the batch holds them.
        classes: how many there are.

    Raises:
        InputError: if they are words, fractions, one-hot or otherwise not [n], or not from 0 to `classes` - 1; the
            message has the cure.
    """
    if not isinstance(labels, Tensor):
        shown = (
            ", ".join(map(repr, list(labels)[:3])) if isinstance(labels, (list, tuple)) else repr(labels)[:80]
        )
        raise InputError(
            f"labels must be whole numbers, one an example; got {shown} (a {type(labels).__name__}). Number the "
            "classes from 0 in the data set: label = names.index(word)."
        )
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise InputError(
            f"labels must be whole numbers; got {labels.dtype}. Classify is for one class an example: give "
            "labels.long() where these are class numbers."
        )
    if labels.ndim != 1:
        column = labels.ndim == 2 and labels.shape[1] == 1
        cure = "labels.squeeze(1)" if column else "labels.argmax(1) where they are one-hot"
        raise InputError(
            f"labels must have shape [n], one an example; got {tuple(labels.shape)}. Give {cure}."
        )
    try:
        low, high = (int(labels.min()), int(labels.max())) if len(labels) else (0, 0)
    except RuntimeError:  # inside torch.func, where no value can be looked at; `losses` says it then
        return labels.long()
    if low < 0 or high >= classes:
        raise InputError(
            f"labels must lie from 0 to {classes - 1}, as Classify.classes is {classes}; got labels from {low} to "
            f"{high}. {_renumber(low, high, classes)}"
        )
    return labels.long()


def _renumber(low: int, high: int, classes: int) -> str:
    if low < 0:
        return "Leave out examples without a class: torch would pass over some such numbers in silence."
    if low >= 1 and high == classes:
        return "They seem to count from 1: give labels - 1."
    return "Count classes from 0, or give Classify more classes."


def _misfit(logits: Tensor, classes: int) -> str:
    if logits.ndim != 2:
        return ""
    if logits.shape[1] == 1 and classes == 2:
        return ' For a model with one logit give data of tasks.Binary (task = "binary" in a project file).'
    if logits.shape[1] > classes:
        return f" If the data just lack its last classes, give Data(examples, Classify({logits.shape[1]}))."
    return f" Give the model {classes} outputs, or fewer classes to Classify."
