"""The audit: everything that is measured on one edited model, and the verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

import torch
from torch import Generator
from torch.nn import Module

from ...masks.mask import Mask
from ...moved import renamed
from ...random import child, draw_seed
from ...types import Data, Measurement, Request
from ..cost import cost
from ..result import Audit, Verdict
from .compared import NEAR, Compared
from .figures import accuracies, memberships, separations, summaries
from .memory import check_of, probes, relearning, remembers
from .panels import panels
from .scores import Parts
from .topology import Topology, chance, topology
from .verdict import GIVE_ORACLES, NO_ORACLE

_APART = 0.03  # overlap above chance from which two masks are taken to come from the same initial weights


@renamed(held="holders")
def audit(
    edited: Module,
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

    Controls come first: the original must be rejected, and retrained models, each judged by the others,
    accepted. Where one fails, or the sample is too small, the verdict is "inconclusive" and says why.

    Args:
        edited: the model in question; no model is changed.
        request: what was to be forgotten.
        original: the model before the edit.
        holders: further models trained with the forget set by the same recipe, with other seeds.
        oracles: models trained by the same recipe without the forget set. With none, the report says what
            cannot be concluded; with one or two, nothing can be called forgotten.
        method: what was done to `edited`, in words.
        seconds: wall clock of the "edit" and of one "retrain".
        rng: governs samples of large parts, splits of the attacks, bootstraps and relearning.
        quick: fewer examples, orders and oracles in the costly figures, not in the verdict.

    Returns:
        The verdict with its controls, leave-one-out error rates and every measurement.

    Raises:
        EmptyDataError: if a part of the request is empty.
    """
    small = _reduced(request, child(rng), most=1000 if quick else 2000)
    everyone = [original, *(model for model in holders if model is not original)]
    compared = Compared(
        small, Parts.of(small), edited, everyone, list(oracles), quick=quick, seed=draw_seed(rng)
    )
    decision = compared.decide()
    shape, absent = _topology(original, edited, oracles)
    hidden = [*probes(compared), relearning(compared)]
    return Audit(
        kind="classifier",
        method=method,
        verdict=_with_memory(decision.verdict, hidden),
        controls=decision.controls,
        rates=decision.rates,
        measurements=(
            *accuracies(compared),
            *summaries(compared),
            *memberships(compared),
            *separations(compared),
            *hidden,
            *(shape.measurements if shape else absent),
            *cost(seconds),
        ),
        panels=panels(compared, shape),
    )


def _with_memory(verdict: Verdict, hidden: Sequence[Measurement]) -> Verdict:
    """The verdict on the answers, with what the figures under them add: they can take "forgotten" back."""
    checks = tuple(map(check_of, hidden))
    flags = tuple(remembers(m) for m, check in zip(hidden, checks, strict=True) if check.passed is False)
    verdict = replace(verdict, checks=checks)
    if verdict.outcome == "not forgotten":
        return verdict
    verdict = replace(verdict, caveats=(*verdict.caveats, *flags))
    if flags and verdict.outcome == "forgotten":
        reason = f"Its answers pass, but the layers under them do not. {verdict.reason} {flags[0]}"
        verdict = replace(verdict, outcome="inconclusive", reason=reason)
    return verdict


def _reduced(request: Request[Any], rng: Generator, most: int) -> Request[Any]:
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
