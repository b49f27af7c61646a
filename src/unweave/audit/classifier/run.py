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
from ...random import child, draw_seed
from ...types import Data, Measurement, Request
from ..cost import cost
from ..result import Audit
from .figures import NEAR, Figures
from .scores import Parts
from .topology import Topology, chance, topology
from .verdict import NO_ORACLE

_APART = 0.03  # overlap above chance from which two masks are taken to come from the same initial weights


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
        quick: fewer examples, orders and oracles in the costly figures; the verdict's reference models stay
            the same.

    Returns:
        The verdict with its controls, leave-one-out error rates and every measurement.

    Raises:
        EmptyDataError: if a part of the request is empty.
    """
    small = _reduced(request, child(rng), most=1000 if quick else 2000)
    with_it = [original, *(model for model in holders if model is not original)]
    figures = Figures(
        small, Parts.of(small), edited, with_it, list(oracles), quick=quick, seed=draw_seed(rng)
    )
    decision = figures.decide()
    shape, missing = _topology(original, edited, oracles)
    hidden = [*figures.probes(), figures.relearning()]
    verdict = decision.verdict
    if verdict.outcome != "not forgotten":
        flags = tuple(flag for m in hidden if (flag := _remembers(m)))
        verdict = replace(verdict, caveats=(*verdict.caveats, *flags))
        if flags and verdict.outcome == "forgotten":
            reason = f"Its answers pass, but the layers under them do not. {verdict.reason} {flags[0]}"
            verdict = replace(verdict, outcome="inconclusive", reason=reason)
    return Audit(
        method=method,
        verdict=verdict,
        controls=decision.controls,
        rates=decision.rates,
        measurements=(
            *figures.accuracies(),
            *figures.summaries(),
            *figures.membership(),
            *hidden,
            *(shape.measurements if shape else missing),
            *cost(seconds),
        ),
        scores=figures.scores(),
        per_class=figures.per_class(),
        layers=shape.layers if shape else {},
    )


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
    note = NO_ORACLE
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


def _remembers(m: Measurement) -> str:
    """A sentence where a figure under the outputs lies nearer to the original's than to the oracles'.

    Half way must be four of the oracles' standard deviations off: one fresh oracle in fifty is there by
    chance where only four set them.
    """
    if m.value is None or m.original is None or m.oracle_mean is None or m.oracle_spread is None:
        return ""
    gap = m.original - m.oracle_mean
    if abs(gap) < 8 * m.oracle_spread + 1e-9 or (m.value - m.oracle_mean) / gap < 0.5:
        return ""
    what = (
        "relearns the forget set much sooner than a retrained model"
        if m.name == "relearn time"
        else "still holds the deleted data under its last layer"
    )
    return (
        f"The model {what} ({m.name}: {m.value:.3g} {m.unit}, original {m.original:.3g}, retrained "
        f"{m.oracle_mean:.3g} ± {m.oracle_spread:.2g}): its answers may have changed more than its memory."
    )
