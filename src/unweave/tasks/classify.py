"""Classification: plain (inputs, labels) batches, and the dictionaries of transformers' image classifiers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import Linear, Module

from ..errors import InputError
from ..types import Batch

_LABELS = ("labels", "label")
_NO_CLASS = -(2**62)  # torch would pass over its own default, -100, in silence
_INPUTS = ("pixel_values", "inputs", "input", "image", "x")


@dataclass(frozen=True)
class Classify:
    """One label an example, cross-entropy loss, logits as output.

    A batch is a pair (inputs [n, ...], labels [n]) or a dictionary with `labels` and `pixel_values` as transformers'
    image classifiers read them. A model returns logits [n, classes], or an object with `.logits`.

    Attributes:
        classes: how many classes there are; at least 2.
    """

    classes: int

    def __post_init__(self) -> None:
        if self.classes < 2:
            raise InputError(f"Classify.classes must be at least 2; got {self.classes}.")

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
        return F.cross_entropy(logits, labels, reduction="none", ignore_index=_NO_CLASS)

    def outputs(self, model: Module, batch: Batch) -> Tensor:
        """Logits, float32 or wider, [n, classes]."""
        first = next(model.parameters(), None)
        inputs = self.inputs(batch)
        if first is not None:
            inputs = inputs.to(first.device)
            if inputs.is_floating_point():
                inputs = inputs.to(first.dtype)
        out = model(inputs)
        logits: Tensor = out.logits if hasattr(out, "logits") else out
        if logits.ndim != 2 or logits.shape[1] != self.classes:
            raise InputError(
                f"the model's output has shape {tuple(logits.shape)}; a classifier of {self.classes} classes must "
                f"return [n, {self.classes}].{_misfit(logits, self.classes)}"
            )
        return logits if logits.dtype in (torch.float32, torch.float64) else logits.float()

    def features(self, model: Module, batch: Batch) -> Tensor:
        """Input of the model's last linear layer, flattened to [n, width]."""
        linears = [module for module in model.modules() if isinstance(module, Linear)]
        if not linears:
            raise InputError("the model has no Linear layer, so it has no representation under the last one.")
        seen: list[Tensor] = []
        hook = linears[-1].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        try:
            self.outputs(model, batch)
        finally:
            hook.remove()
        return seen[-1].flatten(1).float()

    def labels(self, batch: Batch) -> Tensor:
        """Class of each example, int64 [n].

        Raises:
            InputError: if labels are not one whole number from 0 to `classes` - 1 an example.
        """
        labels = whole_labels(batch[_key(batch, _LABELS)] if isinstance(batch, Mapping) else batch[1])
        require_classes(labels, self.classes)
        return labels

    def relabel(self, batch: Batch, labels: Tensor) -> Batch:
        """The same batch with these labels."""
        if isinstance(batch, Mapping):
            return {**batch, _key(batch, _LABELS): labels}
        return (batch[0], labels, *batch[2:])

    def inputs(self, batch: Batch) -> Tensor:
        """What the model reads, [n, ...]."""
        inputs: Tensor = batch[_key(batch, _INPUTS)] if isinstance(batch, Mapping) else batch[0]
        return inputs

    def replace_inputs(self, batch: Batch, inputs: Tensor) -> Batch:
        """The same batch with these inputs."""
        if isinstance(batch, Mapping):
            return {**batch, _key(batch, _INPUTS): inputs}
        return (inputs, *batch[1:])


def whole_labels(labels: Any) -> Tensor:
    """Labels of a batch as int64 [n].

    Raises:
        InputError: if they are words, fractions, one-hot or otherwise not [n]; the message has the cure.
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
    return labels.long()


def require_classes(labels: Tensor, classes: int) -> None:
    """Refuse labels [n] that are not from 0 to `classes` - 1; the message has the cure."""
    try:
        low, high = (int(labels.min()), int(labels.max())) if len(labels) else (0, 0)
    except RuntimeError:  # under vmap no value can be looked at
        return
    if low < 0 or high >= classes:
        raise InputError(
            f"labels must lie from 0 to {classes - 1}, as Classify.classes is {classes}; got labels from {low} to "
            f"{high}. {_renumber(low, high, classes)}"
        )


def _renumber(low: int, high: int, classes: int) -> str:
    if low < 0:
        return "Leave out examples without a class: torch would pass over some such numbers in silence."
    if low >= 1 and high == classes:
        return "They seem to count from 1: give labels - 1."
    return "Count classes from 0, or give Classify more classes."


def _misfit(logits: Tensor, classes: int) -> str:
    if logits.ndim != 2:
        return ""
    if logits.shape[1] > classes:
        return f" If the data just lack its last classes, give Data(examples, Classify({logits.shape[1]}))."
    return f" Give the model {classes} outputs, or fewer classes to Classify."


def _key(batch: Mapping[str, Any], names: tuple[str, ...]) -> str:
    for name in names:
        if name in batch:
            return name
    raise InputError(f"a batch must have one of {', '.join(names)}; it has {', '.join(map(str, batch))}.")
