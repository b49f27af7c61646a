"""Reference models of one request: their answers and what lies under them, read once, and the rulers between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module

from ...fit import each, timed
from ...masks.mask import Mask
from ...random import seeded
from ...statistics import Floats
from ...tasks import predict
from ...types import Request
from .cheats import Cheat, cheats, last_linear
from .head import margins
from .membership import auc
from .readings import Readings
from .relearn import USUAL, mean_loss_of, relearn_steps, sampled
from .ruler import Places, Ruler, Vectors
from .scores import Answers, Parts
from .standard import Standard

DEAR = 4
"""Reference models of either kind that take part in the figures that train something."""
CHEATED = 3
"""Holders that cheats are made from: with one only, copies made from others still passed in 12 % of judgements."""


@dataclass(frozen=True)
class Read:
    """One model's answers to a request.

    Attributes:
        forget: on the examples that must go.
        retain: on those that may stay.
        heldout: on examples never used for training.
        control: on held-out examples of the classes that stay.
        gone: on held-out examples of classes that go whole; None if there are none.
        margins: of the forget set under a last layer made anew, [n]; None where there are none (see `head`).
    """

    forget: Answers
    retain: Answers
    heldout: Answers
    control: Answers
    gone: Answers | None
    margins: Floats | None = None

    @classmethod
    def of(
        cls, model: Module, request: Request[Any], parts: Parts, seed: int = 0, who: str = "the model"
    ) -> Read:
        """Read `model`, which an error calls `who`, over every part; it is left unchanged."""
        named = {"forget": request.forget, "retained": request.retain, "held-out": request.heldout}
        forget, retain, heldout = (
            Answers.of(model, data, parts.deleted, f"{who}, {name} examples") for name, data in named.items()
        )
        gone = None if parts.gone is None else heldout.at(~parts.stays)
        under = margins(model, request, parts, seed)
        return cls(forget, retain, heldout, heldout.at(parts.stays), gone, under)

    @property
    def other(self) -> Answers:
        """What the forget set is set against: held-out examples of its own classes where these go whole."""
        return self.control if self.gone is None else self.gone

    @property
    def trace(self) -> float:
        """AUC of the score of the deleted classes, forget set against control; NaN where none is deleted whole."""
        return trace_of(self.forget, self.control)


def trace_of(forget: Answers, control: Answers) -> float:
    """AUC of the score of the deleted classes; NaN where none is deleted whole."""
    ours, others = forget.deleted, control.deleted
    return float("nan") if ours is None or others is None else auc(ours, others)


def phi_of(read: Sequence[Read]) -> Floats:
    """Confidence of several models on the forget set, [models, n]."""
    return np.stack([r.forget.phi for r in read])


@dataclass(frozen=True)
class References:
    """Models that hold a request's data, models retrained without it, and the rulers between them.

    Attributes:
        request: small enough to be read by every model.
        parts: of it.
        holders: the original first, then further models that hold the forget set.
        oracles: models retrained without it; may be empty.
        seed: of splits, halves, bootstraps and relearning, the same for every model.
    """

    request: Request[Any]
    parts: Parts
    holders: Sequence[Module]
    oracles: Sequence[Module]
    seed: int

    def look(self, model: Module, who: str = "the model") -> Read:
        """One model's answers; an error calls it `who`."""
        return Read.of(model, self.request, self.parts, self.seed, who)

    @cached_property
    def holders_read(self) -> list[Read]:
        """The holders' answers, the original's first."""
        names = ["the original", *(f"model {i} that holds the data" for i in range(1, len(self.holders)))]
        return each(lambda known: self.look(*known), list(zip(self.holders, names, strict=True)))

    @cached_property
    def oracles_read(self) -> list[Read]:
        """The oracles' answers."""
        return each(
            lambda known: self.look(known[1], f"retrained model {known[0]}"), list(enumerate(self.oracles, 1))
        )

    @property
    def rulers(self) -> bool:
        """Whether there are enough models of either kind for a ruler."""
        return min(len(self.holders), len(self.oracles)) > 2

    @cached_property
    def answers(self) -> Ruler:
        """The ruler of answers."""
        return Ruler(self._confidences(self.holders_read), self._confidences(self.oracles_read))

    @cached_property
    def head(self) -> Ruler | None:
        """The ruler of re-made margins; None where there are none."""
        holders, oracles = (_margins(read) for read in (self.holders_read, self.oracles_read))
        return None if holders is None or oracles is None else Ruler(holders, oracles)

    def _confidences(self, read: Sequence[Read | Cheat]) -> Vectors:
        classes = getattr(self.request.forget.task, "classes", 2)
        return Vectors.matched(
            np.stack([r.forget.phi for r in read]), np.stack([r.control.phi for r in read]), classes
        )

    @cached_property
    def relearning(self) -> tuple[Floats, Floats]:
        """Steps in which the first few holders and oracles learn the forget set again; NaN for the others."""
        found = []
        for models in (self.holders, self.oracles):
            steps = _blank(models)
            steps[:DEAR] = each(self.relearn, models[:DEAR])
            found.append(steps)
        return found[0], found[1]

    def relearn(self, model: Module) -> float:
        """Steps in which one model learns the forget set again; see `relearn`."""
        forget, target = self._lesson
        if timed() and model is not self.holders[0]:  # a stand-in, of which nothing can be told but time
            return float(
                relearn_steps(model, forget, 0.0, rng=seeded(self.seed), cap=USUAL[bool(self.parts.deleted)])
            )
        return float(relearn_steps(model, forget, target, rng=seeded(self.seed)))

    @cached_property
    def _lesson(self) -> tuple[Any, float]:
        forget = sampled(self.request.forget, self.seed)
        return forget, mean_loss_of(self.holders[0], forget) * 1.1

    @cached_property
    def masks(self) -> tuple[list[Mask], list[Mask]] | None:
        """Masks of holders and oracles; None unless all are pruned."""
        found = [Mask.of(m) for m in self.holders], [Mask.of(m) for m in self.oracles]
        return found if all(all(kind) for kind in found) else None

    @cached_property
    def readings(self) -> tuple[Readings, Readings]:
        """Holders and oracles, each measured by the others."""
        hidden = [_blank(self.holders), _blank(self.oracles)]
        if self.head is not None:
            hidden = [places.kept for places in self.head.references]
        masks = [_blank(self.holders), _blank(self.oracles)]
        if self.masks is not None:
            held, never = self.masks
            masks = [
                np.array([overlap(m, held[:i] + held[i + 1 :]) for i, m in enumerate(held)]),
                np.array([overlap(m, held) for m in never]),
            ]
        kinds = zip(
            (self.holders_read, self.oracles_read), self.answers.references, hidden, self.relearning, masks,
            strict=True,
        )  # fmt: skip
        holders, oracles = (_readings(*kind) for kind in kinds)
        return holders, oracles

    def measured(self, models: Sequence[Module], read: Sequence[Read]) -> Readings:
        """Models that are not among the references."""
        under, hidden = _margins(read), _blank(models)
        if self.head is not None and under is not None:
            hidden = self.head.read(under).kept
        masks = _blank(models)
        if self.masks is not None:
            held = self.masks[0]
            masks = np.array([overlap(m, held) if (m := Mask.of(model)) else np.nan for model in models])
        relearned = np.array([self.relearn(model) for model in models])
        return _readings(read, self.answers.read(self._confidences(read)), hidden, relearned, masks)

    def cheated(self) -> dict[str, Readings]:
        """Name of each built-in cheat -> the models made so, each measured without the holder that it was made from.

        Raises:
            InputError: where no cheat can be made.
        """
        answers = torch.stack([_probabilities(m, self.request) for m in self.oracles]).mean(0)
        made = cheats(self.holders[:CHEATED], self.request, self.parts, answers, seed=self.seed)
        found: dict[str, Readings] = {}
        for name in dict.fromkeys(c.name for c in made):
            group = [c for c in made if c.name == name]
            at = [c.holder for c in group]
            under, hidden = _margins(group), _blank(group)
            if self.head is not None and under is not None:
                hidden = self.head.read(under, at).kept
            places = self.answers.read(self._confidences(group), at)
            held = self.readings[0].mask[at]
            found[name] = Readings(
                places, hidden, np.array([trace_of(c.forget, c.control) for c in group]), _blank(group), held,
                np.array([c.control.accuracy() for c in group]), _blank(group),
            )  # fmt: skip
        return found

    def standard(
        self, holders: Floats | None = None, oracles: Floats | None = None, several: int = 1
    ) -> Standard:
        """The limits, set by these of the holders and oracles (indices; all unless given)."""
        held, never = self.readings
        return Standard(
            held if holders is None else held.at(holders), never if oracles is None else never.at(oracles),
            whole=bool(self.parts.deleted), information=self.answers.information, effective=self.answers.effective,
            several=several,
        )  # fmt: skip

    def untouched(self, model: Module) -> str:
        """Where every weight under the last layer that training moves is bit for bit the original's: that, in words."""
        own, others = _under(self.holders[0]), [_under(m) for m in self.oracles]
        moved = [n for n, p in own.items() if any(n not in o or not torch.equal(o[n], p) for o in others)]
        edited = _under(model)
        if not moved or any(n not in edited or not torch.equal(edited[n], own[n]) for n in moved):
            return ""
        return f"all {len(moved)} weight tensors under its last layer are bit for bit the original's"


def overlap(mask: Mask, holders: Sequence[Mask]) -> float:
    """Mean overlap with the masks of models that hold the data.

    Overlap with the oracles' masks does not enter: a model that never saw the data, but was trained for fewer steps
    than they, has another mask than either, and holds nothing for it.
    """
    return float(np.mean([mask.iou(other) for other in holders]))


def _readings(
    read: Sequence[Read], places: Places, hidden: Floats, relearn: Floats, mask: Floats
) -> Readings:
    return Readings(
        places, hidden, np.array([r.trace for r in read]), relearn, mask,
        np.array([r.control.accuracy() for r in read]), np.array([r.retain.accuracy() for r in read]),
    )  # fmt: skip


def _margins(read: Sequence[Read | Cheat]) -> Vectors | None:
    found = [r.margins for r in read if r.margins is not None]
    return Vectors(np.stack(found)) if read and len(found) == len(read) else None


def _blank(models: Sequence[Any]) -> Floats:
    return np.full(len(models), np.nan)


def _probabilities(model: Module, request: Request[Any]) -> Tensor:
    return predict(model, request.forget).softmax(1)


def _under(model: Module) -> dict[str, Tensor]:
    """Name -> weight, of all under the last linear layer."""
    head = last_linear(model)
    own = set() if head is None else {id(p) for p in head.parameters()}
    return {n: p.detach().cpu() for n, p in model.named_parameters() if id(p) not in own}
