"""Whether a deletion took more than it was asked to: requests can be made to do harm, by a cliff or to one class."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import Module

from ...tasks import Autoregressive, Labelled, able, perplexity, predict, read_labels
from ...types import Data
from ..subject import Subject

CLIFF = 5.0
"""Points of held-out accuracy whose loss is told."""
TARGETED = 20.0
"""Points of one class's, as far as the class is still trained on."""
DEARER = 1.2
"""Times the perplexity on held-out texts from which its rise is told."""
LARGE = 0.1
"""Share of the data from which a batch of requests is told to be looked at before it is served."""
_LEAST = 10  # held-out examples of a class


def lost(subject: Subject, old: Module, new: Module) -> list[str]:
    """What a new version of a model lost on held-out examples, in sentences; empty where it lost nothing to speak of.

    Args:
        subject: the data that the new version was trained on.
        old: the version before.
        new: that is to take its place.
    """
    heldout = subject.heldout
    if able(heldout.task, Autoregressive):
        was, now = perplexity(old, heldout), perplexity(new, heldout)
        return [f"its perplexity on held-out texts rose from {was:.3g} to {now:.3g}"] * (now > DEARER * was)
    if not able(heldout.task, Labelled):
        return []
    labels, kept = read_labels(heldout), set(read_labels(subject.train).tolist())
    before, after = _right(old, heldout, labels), _right(new, heldout, labels)
    stay = torch.tensor([label in kept for label in labels.tolist()])
    told = []
    if bool(stay.any()) and (fall := _points(before[stay]) - _points(after[stay])) > CLIFF:
        told.append(f"its accuracy on held-out examples fell by {fall:.1f} points")
    for label in sorted(kept):
        own = labels == label
        fall = _points(before[own]) - _points(after[own]) if int(own.sum()) >= _LEAST else 0.0
        if fall > TARGETED:
            name = subject.class_names[label] if label < len(subject.class_names) else label
            told.append(f"its accuracy on held-out examples of class {name} fell by {fall:.1f} points")
    return told


def _right(model: Module, data: Data[Labelled], labels: Tensor) -> Tensor:
    return predict(model, data).argmax(1).cpu() == labels


def _points(right: Tensor) -> float:
    return 100 * float(right.double().mean())
