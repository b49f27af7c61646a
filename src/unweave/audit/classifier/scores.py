"""What the audit reads off a model: its answers, and which classes a request deletes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import Module

from ...errors import InputError
from ...statistics import Floats
from ...tasks import predict, read_labels
from ...types import Data, Request

CLIP = 100.0
"""Confidences are cut to [-CLIP, CLIP]: a class masked out of the output has log odds of minus infinity."""


def confidence(model: Module, data: Data[Any]) -> Floats:
    """Log odds that the model gives each example's true label: phi = log p_y - log(1 - p_y).

    For logits z this is z_y - log sum_{k != y} exp z_k, computed in that form in float64, so that neither p =
    1 nor p = 0 loses anything (Carlini et al., 2022, arXiv 2112.03570, section VI, define phi; the form
    avoids their additive constant). A task without labels is read by its losses, taken as -log p.

    Args:
        model: left unchanged; read in eval mode.
        data: n examples.

    Returns:
        [n] float64 in nats, cut to [-100, 100].

    Raises:
        EmptyDataError: if `data` has no examples.
    """
    data.require_examples("audit.confidence")
    if not hasattr(data.task, "labels"):
        losses = predict(model, data, data.task.losses).double()
        return _cut(-losses - torch.log1p(-torch.exp(-losses.clamp_min(1e-45))))
    return confidence_of(predict(model, data), read_labels(data))


def confidence_of(logits: Tensor, labels: Tensor) -> Floats:
    """Log odds of the labels [n] under logits [n, classes]; see `confidence`.

    Example:
        >>> confidence_of(torch.tensor([[0.0, 0.0, 0.0], [200.0, 0.0, 0.0]]), torch.tensor([0, 0])).round(4)
        array([ -0.6931, 100.    ])
    """
    z = logits.double()
    own = z.gather(1, labels[:, None])[:, 0]
    others = z.scatter(1, labels[:, None], -torch.inf).logsumexp(1)
    return _cut(own - others)


@dataclass(frozen=True)
class Answers:
    """What one model answers on one data set of n examples.

    Attributes:
        phi: logit-scaled confidence in the true label, [n] in nats.
        entropy: of the predicted distribution, [n] in nats; NaN for tasks without labels.
        deleted: log odds of the likeliest of the deleted classes, [n]; None if no class is deleted.
        correct: whether the likeliest class is the true one, as 0 or 1, [n]; exp(-loss) for tasks without
            labels.
    """

    phi: Floats
    entropy: Floats
    correct: Floats
    deleted: Floats | None = None

    @classmethod
    def of(
        cls, model: Module, data: Data[Any], deleted: Sequence[int] = (), who: str = "the model"
    ) -> Answers:
        """Read `model` once over `data`, in eval mode; `deleted` are the classes that the request deletes.

        Raises:
            InputError: naming `who`, if an answer is NaN.
        """
        if not hasattr(data.task, "labels"):
            phi = confidence(model, data)
            return cls(phi, np.full(len(phi), np.nan), 1 / (1 + np.exp(-phi)))
        logits = predict(model, data)
        _require_numbers(logits, who)
        return cls.from_logits(logits, read_labels(data), deleted)

    @classmethod
    def from_logits(cls, logits: Tensor, labels: Tensor, deleted: Sequence[int] = ()) -> Answers:
        """Of logits [n, classes] and labels [n]."""
        logits = logits.double()
        logs = logits.log_softmax(1)
        entropy = -(logs.exp() * logs.clamp_min(-1e4)).sum(1)
        right = (logits.argmax(1) == labels).double()
        odds = [confidence_of(logits, torch.full_like(labels, c)) for c in deleted]
        scored = np.max(odds, 0) if odds else None
        return cls(confidence_of(logits, labels), entropy.numpy(), right.numpy(), scored)

    def at(self, chosen: npt.NDArray[np.bool_]) -> Answers:
        """The examples where `chosen` is true."""
        deleted = None if self.deleted is None else self.deleted[chosen]
        return Answers(self.phi[chosen], self.entropy[chosen], self.correct[chosen], deleted)

    @property
    def probability(self) -> Floats:
        """Probability of the true label, [n]."""
        out: Floats = 1 / (1 + np.exp(-self.phi))
        return out

    def accuracy(self) -> float:
        """In %."""
        return 100 * float(self.correct.mean())


def require_answers(model: Module, request: Request[Any], who: str = "the model") -> None:
    """Refuse a model that has no answer to some example, as where one of them or a weight holds NaN.

    Raises:
        InputError: naming the model, the part, how many, and the first.
    """
    parts = {"forget": request.forget, "retained": request.retain, "held-out": request.heldout}
    for name, data in parts.items():
        if hasattr(data.task, "labels"):
            _require_numbers(predict(model, data), f"{who}, {name} examples")


def _require_numbers(answers: Tensor, who: str) -> None:
    lost = answers.flatten(1).isnan().any(1)
    if lost.any():
        raise InputError(
            f"{who}: the answer to {int(lost.sum())} of {len(answers)} is NaN, not a number; the first is number "
            f"{int(lost.nonzero()[0])} of them, from 0. Look for NaN or infinity in the data, or in the model's "
            "weights."
        )


def _cut(phi: Tensor) -> Floats:
    out: Floats = (
        phi.nan_to_num(nan=0.0, posinf=CLIP, neginf=-CLIP).clamp(-CLIP, CLIP).numpy().astype(np.float64)
    )
    return out


def deleted_classes(request: Request[Any]) -> tuple[int, ...]:
    """Classes with examples to forget and none to keep; empty for tasks without labels."""
    if not hasattr(request.forget.task, "labels"):
        return ()
    return tuple(
        sorted(set(read_labels(request.forget).tolist()) - set(read_labels(request.retain).tolist()))
    )


@dataclass(frozen=True)
class Parts:
    """A request as the audit reads it.

    Attributes:
        deleted: classes that the request deletes whole.
        stays: which held-out examples are of the classes that stay, bool [n]; all where no class is deleted.
        control: those held-out examples.
        gone: held-out examples of the deleted classes; None if there are none.
    """

    deleted: tuple[int, ...]
    stays: npt.NDArray[np.bool_]
    control: Data[Any]
    gone: Data[Any] | None

    @classmethod
    def of(cls, request: Request[Any]) -> Parts:
        """Split the held-out set of `request`.

        Raises:
            EmptyDataError: if a part of the request, or the held-out set without the deleted classes, is
                empty.
        """
        request.forget.require_examples("audit's forget set")
        request.retain.require_examples("audit's retain set")
        heldout = request.heldout
        heldout.require_examples("audit's held-out set")
        deleted = deleted_classes(request)
        if not deleted:
            return cls((), np.ones(len(heldout), dtype=bool), heldout, None)
        lost = torch.isin(read_labels(heldout), torch.tensor(deleted))
        control = heldout.subset((~lost).nonzero().flatten())
        control.require_examples("audit: the held-out set, once the deleted classes are taken out,")
        gone = heldout.subset(lost.nonzero().flatten()) if lost.any() else None
        return cls(deleted, (~lost).numpy(), control, gone)


def confidences(models: Sequence[Module], data: Data[Any]) -> Floats:
    """`confidence` of several models, [models, n]."""
    return np.stack([confidence(model, data) for model in models]) if models else np.zeros((0, len(data)))
