"""Reference models of a request to forget texts: their answers, what lies under them, the rulers between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from torch.nn import Module

from ...random import seeded
from ...statistics import Floats
from ...types import Data, Request
from ..classifier.cheats import last_linear
from ..classifier.readings import Readings
from ..classifier.references import CHEATED, DEAR
from ..classifier.relearn import mean_loss_of, relearn_steps, sampled
from ..classifier.ruler import Places, Ruler, Vectors
from ..classifier.standard import Standard
from .cheats import Cheat, cheats
from .read import Read, Told

QUANTISED, OTHERWISE = "quantised copy", "in other words"


@dataclass(frozen=True)
class References:
    """Models that hold the texts, models retrained without them, and the rulers between them.

    Attributes:
        request: small enough to be read by every model.
        holders: the original first, then further models that hold the texts.
        oracles: models retrained without them; may be empty.
        seed: of relearning and cheats, the same for every model.
        paraphrases: the texts to forget in other words, one each in the same order; None where there are none.
        general: texts of another kind; None where there are none.
    """

    request: Request[Any]
    holders: Sequence[Module]
    oracles: Sequence[Module]
    seed: int
    paraphrases: Data[Any] | None = None
    general: Data[Any] | None = None

    def look(self, model: Module) -> Read:
        """One model's answers."""
        return Read.of(model, self.request, self.paraphrases, self.general)

    @cached_property
    def holders_read(self) -> list[Read]:
        """The holders' answers, the original's first."""
        return [self.look(model) for model in self.holders]

    @cached_property
    def oracles_read(self) -> list[Read]:
        """The oracles' answers."""
        return [self.look(model) for model in self.oracles]

    @property
    def rulers(self) -> bool:
        """Whether there are enough models of either kind for a ruler."""
        return min(len(self.holders), len(self.oracles)) > 2

    @cached_property
    def answers(self) -> Ruler:
        """The ruler of answers, one confidence a text."""
        return self._ruler([r.forget for r in self.holders_read], [r.forget for r in self.oracles_read])

    @cached_property
    def head(self) -> Ruler:
        """The ruler of re-made margins, one a token."""
        holders, oracles = (
            np.stack([r.margins for r in read]) for read in (self.holders_read, self.oracles_read)
        )
        return Ruler(Vectors(holders), Vectors(oracles))

    @cached_property
    def further(self) -> dict[str, Ruler]:
        """Rulers of the same texts read otherwise: by a copy of few bits, or in other words."""
        found = {
            QUANTISED: self._ruler(
                [r.quantised for r in self.holders_read], [r.quantised for r in self.oracles_read]
            )
        }
        if self.paraphrases is not None:
            holders, oracles = (
                [r.said_otherwise for r in read if r.said_otherwise is not None]
                for read in (self.holders_read, self.oracles_read)
            )
            found[OTHERWISE] = self._ruler(holders, oracles)
        return found

    def _ruler(self, holders: Sequence[Told], oracles: Sequence[Told]) -> Ruler:
        return Ruler(
            self._confidences(np.stack([t.phi for t in holders]), self.holders_read),
            self._confidences(np.stack([t.phi for t in oracles]), self.oracles_read),
        )

    def _confidences(self, forget: Floats, read: Sequence[Read]) -> Vectors:
        return self._matched(forget, np.stack([r.heldout.phi for r in read]))

    def _matched(self, forget: Floats, heldout: Floats) -> Vectors:
        return Vectors.matched(forget, heldout, self._tokens)

    @cached_property
    def _tokens(self) -> int:
        head = last_linear(self.holders[0])
        return 2 if head is None else head.out_features

    @cached_property
    def relearning(self) -> tuple[Floats, Floats]:
        """Steps in which the first few holders and oracles learn the texts again; NaN for the others."""
        held, never = (
            np.array([self.relearn(m) if i < DEAR else np.nan for i, m in enumerate(models)])
            for models in (self.holders, self.oracles)
        )
        return held, never

    def relearn(self, model: Module) -> float:
        """Steps in which one model learns the texts again."""
        forget, target = self._lesson
        return float(relearn_steps(model, forget, target, rng=seeded(self.seed)))

    @cached_property
    def _lesson(self) -> tuple[Any, float]:
        forget = sampled(self.request.forget, self.seed)
        return forget, max(0.1, mean_loss_of(self.holders[0], forget) * 1.1)

    @cached_property
    def readings(self) -> tuple[Readings, Readings]:
        """Holders and oracles, each measured by the others."""
        hidden = [p.kept for p in self.head.references]
        more = {name: [p.kept for p in ruler.references] for name, ruler in self.further.items()}
        reads = (self.holders_read, self.oracles_read)
        holders, oracles = (
            _readings(reads[k], self.answers.references[k], hidden[k], self.relearning[k],
                      {name: both[k] for name, both in more.items()})
            for k in (0, 1)
        )  # fmt: skip
        return holders, oracles

    def measured(self, models: Sequence[Module], read: Sequence[Read]) -> Readings:
        """Models that are not among the references."""
        places = self.answers.read(self._confidences(np.stack([r.forget.phi for r in read]), read))
        hidden = self.head.read(Vectors(np.stack([r.margins for r in read]))).kept
        told = {QUANTISED: [r.quantised for r in read]}
        if self.paraphrases is not None:
            told[OTHERWISE] = [r.said_otherwise for r in read if r.said_otherwise is not None]
        more = {
            name: self.further[name].read(self._confidences(np.stack([t.phi for t in these]), read)).kept
            for name, these in told.items()
        }
        return _readings(read, places, hidden, np.array([self.relearn(m) for m in models]), more)

    def cheated(self) -> dict[str, Readings]:
        """Name of each built-in cheat -> the models made so, each measured without the holder that it was made from.

        Raises:
            InputError: where no cheat can be made.
        """
        made = cheats(
            self.holders[:CHEATED], self.holders_read[:CHEATED], self.oracles_read, self.request, self.seed
        )
        found: dict[str, Readings] = {}
        for name in dict.fromkeys(c.name for c in made):
            group = [c for c in made if c.name == name]
            found[name] = self._cheated(group, [c.holder for c in group])
        return found

    def _cheated(self, group: Sequence[Cheat], at: Sequence[int]) -> Readings:
        forget, heldout, under = (
            np.stack([getattr(c, name) for c in group]) for name in ("forget", "heldout", "margins")
        )
        blank = np.full(len(group), np.nan)
        return Readings(
            self.answers.read(self._matched(forget, heldout), at), self.head.read(Vectors(under), at).kept, blank,
            blank, blank, np.array([c.accuracy for c in group]), blank, {name: blank for name in self.further},
        )  # fmt: skip

    def standard(
        self, holders: Floats | None = None, oracles: Floats | None = None, several: int = 1
    ) -> Standard:
        """The limits, set by these of the holders and oracles (indices; all unless given)."""
        held, never = self.readings
        return Standard(
            held if holders is None else held.at(holders), never if oracles is None else never.at(oracles),
            whole=False, information=self.answers.information, effective=self.answers.effective, several=several,
        )  # fmt: skip


def _readings(
    read: Sequence[Read], places: Places, hidden: Floats, relearn: Floats, more: dict[str, Floats]
) -> Readings:
    blank = np.full(len(read), np.nan)
    return Readings(
        places, hidden, blank, relearn, blank, np.array([r.heldout.accuracy for r in read]),
        np.array([r.retain.accuracy for r in read]), more,
    )  # fmt: skip
