"""All models' answers to one request, read once, for the verdict and every figure to compare."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from torch.nn import Module

from ...statistics import Floats
from ...types import Measurement, Request
from ..measured import measurement
from .membership import auc
from .ruler import Ruler, Sample
from .scores import Answers, Parts
from .verdict import Decision, decide

NEAR = "near the retrained models"


@dataclass(frozen=True)
class Read:
    """One model's answers to a request.

    Attributes:
        forget: on the examples that must go.
        retain: on those that may stay.
        heldout: on examples never used for training.
        control: on held-out examples of the classes that stay.
        gone: on held-out examples of classes that go whole; None if there are none.
    """

    forget: Answers
    retain: Answers
    heldout: Answers
    control: Answers
    gone: Answers | None

    @classmethod
    def of(cls, model: Module, request: Request[Any], parts: Parts) -> Read:
        """Read `model` once over every part; it is left unchanged."""
        forget, retain, heldout = (
            Answers.of(model, data, parts.deleted)
            for data in (request.forget, request.retain, request.heldout)
        )
        gone = None if parts.gone is None else heldout.at(~parts.stays)
        return cls(forget, retain, heldout, heldout.at(parts.stays), gone)

    @property
    def other(self) -> Answers:
        """What the forget set is set against: held-out examples of its own classes where these go whole."""
        return self.control if self.gone is None else self.gone

    @property
    def trace(self) -> float:
        """AUC of the score of the deleted classes, forget set against control; NaN where none is deleted whole."""
        ours, others = self.forget.deleted, self.control.deleted
        return float("nan") if ours is None or others is None else auc(ours, others)


def phi_of(read: Sequence[Read]) -> Floats:
    """Confidence of several models on the forget set, [models, n]."""
    return np.stack([r.forget.phi for r in read])


def sample_of(read: Sequence[Read], parts: Parts, classes: int) -> Sample:
    """What the verdict needs of several models' answers."""
    return Sample.of(
        phi_of(read),
        np.stack([r.control.phi for r in read]),
        np.array([[r.retain.accuracy(), r.control.accuracy()] for r in read]),
        classes,
        np.array([r.trace for r in read]) if parts.deleted else None,
    )


@dataclass(frozen=True)
class Compared:
    """The edited model among those that it is compared with.

    Attributes:
        request: small enough to be read by every model.
        parts: of it.
        edited: the model in question.
        holders: the original first, then further models that hold the forget set.
        oracles: models retrained without it; may be empty.
        quick: fewer examples, orders and oracles in the figures that train something.
        seed: of splits, bootstraps and relearning, the same for every model.
    """

    request: Request[Any]
    parts: Parts
    edited: Module
    holders: Sequence[Module]
    oracles: Sequence[Module]
    quick: bool
    seed: int

    @property
    def original(self) -> Module:
        """The model before the edit."""
        return self.holders[0]

    @property
    def dear(self) -> int:
        """How many oracles take part in the figures that train something."""
        return 2 if self.quick else 4

    @cached_property
    def edited_read(self) -> Read:
        """The edited model's answers."""
        return Read.of(self.edited, self.request, self.parts)

    @cached_property
    def holders_read(self) -> list[Read]:
        """The holders' answers, the original's first."""
        return [Read.of(model, self.request, self.parts) for model in self.holders]

    @cached_property
    def oracles_read(self) -> list[Read]:
        """The oracles' answers."""
        return [Read.of(model, self.request, self.parts) for model in self.oracles]

    def decide(self) -> Decision:
        """Controls and verdict."""
        classes = getattr(self.request.forget.task, "classes", 2)
        edited, holders = (
            sample_of(read, self.parts, classes) for read in ([self.edited_read], self.holders_read)
        )
        empty = Sample(np.zeros((0, 0)), np.zeros((0, 2)), np.zeros((0, 2)))
        oracles = sample_of(self.oracles_read, self.parts, classes) if self.oracles else empty
        return decide(Ruler(holders, oracles), edited)

    def measure(
        self,
        name: str,
        figure: Callable[[Read], float],
        *,
        unit: str,
        n: int,
        direction: str = NEAR,
        interval: tuple[float, float] | None = None,
        note: str = "",
    ) -> Measurement:
        """One figure of the edited model, the original and all oracles."""
        return measurement(
            name,
            figure(self.edited_read),
            figure(self.holders_read[0]),
            [figure(read) for read in self.oracles_read],
            unit=unit,
            direction=direction,
            n=n,
            interval=interval,
            note=note,
        )
