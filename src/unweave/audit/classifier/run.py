"""The audit: everything that is measured on one edited model, and the verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Generator
from torch.nn import Module

from ...errors import InputError
from ...masks.mask import Mask
from ...moved import renamed
from ...random import child, draw_seed
from ...types import Data, Measurement, Request
from ..cost import cost
from ..result import Audit
from .compared import NEAR, Compared
from .figures import accuracies, memberships, separations, summaries
from .gauge import memory_gauge, not_healed
from .memory import hidden_position, probes, relearning
from .panels import panels
from .readings import Readings
from .references import Read, References
from .scores import Parts, require_answers
from .topology import Topology, chance, topology
from .verdict import GIVE_ORACLES, NO_ORACLE, Court, Decision

_APART = 0.03  # overlap above chance from which two masks are taken to come from the same initial weights


@dataclass(frozen=True)
class Auditor:
    """Judges edited models of one request by the same references, which are read once, however many are judged.

    Attributes:
        references: models that hold the data, and retrained ones.
        quick: fewer examples and oracles in the costly figures; none of them is the verdict's.
    """

    references: References
    quick: bool = False

    @classmethod
    def of(
        cls,
        request: Request[Any],
        *,
        original: Module,
        holders: Sequence[Module] = (),
        oracles: Sequence[Module] = (),
        rng: Generator,
        quick: bool = False,
    ) -> Auditor:
        """Take what to compare with; arguments as in `audit`."""
        small = _reduced(request, child(rng))
        require_answers(original, small, "the original model")
        everyone = [original, *(model for model in holders if model is not original)]
        references = References(small, Parts.of(small), everyone, list(oracles), draw_seed(rng))
        return cls(references, quick)

    def audit(
        self,
        edited: Module | Sequence[Module],
        *,
        method: str = "",
        seconds: Mapping[str, float] | None = None,
    ) -> Audit:
        """Judge one edited model, or the mean of several; see `audit`."""
        several = listed(edited)
        r, first = self.references, several[0]
        read = [r.look(model, f"the edited model ({method or 'edited'})") for model in several]
        decision, readings = self._decided(several, read)
        compared = Compared(r, first, read[0], self.quick)
        gauge = memory_gauge(compared)
        steps = r.relearn(first) if readings is None else float(readings.relearn[0])
        shape, absent = _topology(compared.original, first, r.oracles)
        return Audit(
            kind="classifier",
            method=method,
            verdict=not_healed(decision.verdict, gauge),
            controls=decision.controls,
            rates=decision.rates,
            measurements=(
                *accuracies(compared),
                *summaries(compared),
                *memberships(compared),
                *separations(compared),
                gauge,
                *hidden_position(compared, readings),
                *probes(compared),
                relearning(compared, steps),
                *(shape.measurements if shape else absent),
                *cost(seconds),
            ),
            panels=panels(compared, shape),
        )

    def decide(self, edited: Module | Sequence[Module]) -> Decision:
        """The verdict alone, with its controls: what `audit` says, without the figures that it does not rest on."""
        several = listed(edited)
        return self._decided(several, [self.references.look(model) for model in several])[0]

    def _decided(self, several: Sequence[Module], read: Sequence[Read]) -> tuple[Decision, Readings | None]:
        r = self.references
        readings = r.measured(several, read) if r.rulers else None
        return self._court(len(several)).judge(readings, r.untouched(several[0])), readings

    def _court(self, several: int) -> Court:
        known = self.__dict__.setdefault("_courts", {})
        if several not in known:
            known[several] = Court.of(self.references, several)
        court: Court = known[several]
        return court


@renamed(held="holders")
def audit(
    edited: Module | Sequence[Module],
    request: Request[Any],
    *,
    original: Module,
    holders: Sequence[Module] = (),
    oracles: Sequence[Module] = (),
    method: str = "",
    seconds: Mapping[str, float] | None = None,
    rng: Generator,
    quick: bool = False,
) -> Audit:
    """Judge an edited model against models that hold the forget set and models that never saw it.

    Controls come first: the original must be rejected, retrained models, each judged by the others, accepted, and
    cheats made on the spot seen through. Where one fails the verdict is "inconclusive", and says what would decide.
    Then its answers and what lies under them are each read on a ruler between the two kinds of reference models.

    Args:
        edited: the model in question, or several edited by one method from as many models that hold the data, whose
            mean is judged: what a request of a few examples needs. The figures are the first one's. No model is
            changed.
        request: what was to be forgotten.
        original: the model before the edit.
        holders: further models trained with the forget set by the same recipe, with other seeds.
        oracles: models trained by the same recipe without the forget set. Nothing is decided with fewer than four of
            them, or fewer than four models that hold the data.
        method: what was done to `edited`, in words.
        seconds: wall clock of the "edit" and of one "retrain".
        rng: governs samples of large parts, splits of the attacks, bootstraps, cheats and relearning.
        quick: fewer examples and oracles in the costly figures; none of them is the verdict's.

    Returns:
        The verdict with its controls, leave-one-out error rates and every measurement.

    Raises:
        EmptyDataError: if a part of the request is empty.
        InputError: if there is no edited model.
    """
    auditor = Auditor.of(request, original=original, holders=holders, oracles=oracles, rng=rng, quick=quick)
    return auditor.audit(edited, method=method, seconds=seconds)


def listed(edited: Module | Sequence[Module]) -> list[Module]:
    """One edited model, or several, as a list.

    Raises:
        InputError: if there is none.
    """
    several = [edited] if isinstance(edited, Module) else list(edited)
    if not several:
        raise InputError("audit was given no edited model.")
    return several


def _reduced(request: Request[Any], rng: Generator, most: int = 2000) -> Request[Any]:
    """The request with its large parts cut down to a random sample, shared by the verdict and all figures."""
    deleted = Parts.of(request).deleted  # refuses empty parts before anything is drawn

    def cut(data: Data[Any], keep: int) -> Data[Any]:
        if len(data) <= keep:
            return data
        return data.subset(torch.randperm(len(data), generator=rng)[:keep].sort().values)

    smaller = Request(cut(request.forget, most), cut(request.retain, most), cut(request.heldout, 2 * most))
    # a class of which no retained example was drawn would count as deleted
    return smaller if Parts.of(smaller).deleted == deleted else request


def _topology(
    original: Module, edited: Module, oracles: Sequence[Module]
) -> tuple[Topology | None, tuple[Measurement, ...]]:
    """Masks compared, if the original is pruned; where they cannot be, what stands in their place."""
    mask, others = Mask.of(original), [Mask.of(model) for model in oracles]
    if not mask:
        return None, ()
    note = f"{NO_ORACLE} {GIVE_ORACLES}"
    if others:
        # masks of models from different initial weights overlap by chance alone
        same = fmean(mask.iou(m) - chance(mask, m) for m in others if m) > _APART if any(others) else False
        if same and all(others):
            return topology(mask, Mask.of(edited), others, same_initial=True), ()
        note = (
            "the oracles' masks overlap with the original's no more than by chance: they were trained from "
            "other initial weights, and masks cannot be compared. Set the recipe's init_seed."
        )
    return None, (
        Measurement(name="mask overlap", value=None, unit="IoU", direction=NEAR, n=len(others), note=note),
    )
