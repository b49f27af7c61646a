"""One model's reading of texts: every counted token, and what lies under the answers, in one pass over each part."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module

from ...errors import InputError
from ...masks.layers import copied
from ...statistics import Floats
from ...tasks import evaluating
from ...types import Data, Request
from ..classifier.cheats import last_linear
from ..classifier.head import ridge_scores
from .scores import Seen

BITS = 4
"""Of the quantised copy that is looked at."""
MOST = 4000
"""Tokens that a last layer made anew is fitted on."""


@dataclass(frozen=True)
class Told:
    """What one model makes of n texts."""

    seen: tuple[Seen, ...]

    @classmethod
    def of(cls, model: Module, data: Data[Any]) -> Told:
        """Read `model` in eval mode over `data`; it is left unchanged."""
        task, found = data.task, list[Seen]()
        with evaluating(model):
            for batch in data.batches():
                counted = task.counted(batch)
                logits = task.outputs(model, batch)[:, :-1].cpu()[counted.cpu()].double()
                truth = task.labels(batch)[:, 1:].cpu()[counted.cpu()]
                found += _texts(logits, truth, counted.sum(1).tolist())
        return cls(tuple(found))

    def __len__(self) -> int:
        return len(self.seen)

    @cached_property
    def losses(self) -> Floats:
        """Mean loss a token of each text in nats, [n]."""
        return np.array([s.loss for s in self.seen])

    @cached_property
    def phi(self) -> Floats:
        """Log odds of each answer's length-normalised probability, [n]."""
        loss = np.maximum(self.losses, 1e-9)
        found: Floats = -loss - np.log(-np.expm1(-loss))
        return found

    @property
    def accuracy(self) -> float:
        """Tokens that are the likeliest after those before them, in %."""
        return 100 * float(np.mean([r for s in self.seen for r in s.right]))


def _texts(logits: Tensor, truth: Tensor, lengths: list[int]) -> Iterator[Seen]:
    log_p = logits.log_softmax(1)
    p = log_p.exp()
    mean = (p * log_p).sum(1)
    sd = ((p * log_p.square()).sum(1) - mean.square()).clamp(min=0).sqrt()
    own, right = log_p.gather(1, truth[:, None])[:, 0], log_p.argmax(1) == truth
    for parts in zip(*(torch.split(x, lengths) for x in (own, mean, sd, right)), strict=True):
        a, b, c, r = (x.numpy() for x in parts)
        yield Seen(a, b, c, tuple(map(bool, r)))


@dataclass(frozen=True)
class Read:
    """One model's reading of a request.

    Attributes:
        forget: texts that must go.
        retain: texts that may stay.
        heldout: texts never used for training.
        margins: of each counted token of the forget set under a last layer made anew, [tokens].
        quantised: the forget set read by a copy of the model rounded to 4 bits.
        said_otherwise: the forget set in other words; None where none were given.
        general: texts of another kind; None where none were given.
    """

    forget: Told
    retain: Told
    heldout: Told
    margins: Floats
    quantised: Told
    said_otherwise: Told | None
    general: Told | None = None

    @classmethod
    def of(
        cls,
        model: Module,
        request: Request[Any],
        paraphrases: Data[Any] | None,
        general: Data[Any] | None = None,
    ) -> Read:
        """Read `model` over every part; it is left unchanged."""
        forget, retain, heldout = (
            Told.of(model, d) for d in (request.forget, request.retain, request.heldout)
        )
        return cls(
            forget, retain, heldout, margins(model, request), Told.of(quantised(model), request.forget),
            *(None if other is None else Told.of(model, other) for other in (paraphrases, general)),
        )  # fmt: skip


def states(model: Module, data: Data[Any]) -> tuple[Tensor, Tensor]:
    """What goes into the last layer before each counted token, float64 [tokens, width], and these tokens, [tokens].

    Raises:
        InputError: if the model has no linear layer at its end.
    """
    head, task = last_linear(model), data.task
    if head is None:
        raise InputError(f"{type(model).__name__} has no linear layer that scores the tokens.")
    seen: list[Tensor] = []
    hook = head.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    found, truth = [], []
    try:
        with evaluating(model):
            for batch in data.batches():
                counted = task.counted(batch).cpu()
                seen.clear()
                task.outputs(model, batch)
                found.append(seen[-1][:, :-1].cpu()[counted].double())
                truth.append(task.labels(batch)[:, 1:].cpu()[counted])
    finally:
        hook.remove()
    return torch.cat(found), torch.cat(truth)


def margins(model: Module, request: Request[Any]) -> Floats:
    """Margin of each token of the forget set under a last layer made anew from the retain set; see `head`.

    Tokens that no retained text has are read as 0: such a layer cannot know them.
    """
    retain, others = states(model, request.retain)
    forget, own = states(model, request.forget)
    return margins_of(forget.numpy(), own.numpy(), retain.numpy()[:MOST], others.numpy()[:MOST])


def margins_of(forget: Floats, own: Any, retain: Floats, others: Any) -> Floats:
    """`margins` of representations [tokens, width] and their tokens [tokens]."""
    scores, kinds = ridge_scores(retain, others, forget)
    there = own[:, None] == kinds
    known = there.any(1)
    rest = np.where(there, -np.inf, scores).max(1)
    found: Floats = np.where(known, np.where(there, scores, 0.0).sum(1) - rest, 0.0)
    return found


def quantised(model: Module, bits: int = BITS) -> Module:
    """A copy whose matrix weights are rounded to so many bits, row by row, to the nearest of evenly spaced values."""
    rounded, top = copied(model), 2 ** (bits - 1) - 1
    with torch.no_grad():
        for p in rounded.parameters():
            if p.ndim > 1:
                step = p.abs().amax(-1, keepdim=True).clamp(min=1e-12) / top
                p.copy_((p / step).round() * step)
    return rounded
