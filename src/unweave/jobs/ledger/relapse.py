"""Whether an approximate edit brought back what earlier requests had deleted: every one of them is judged again."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import Module

from ...parallel import build_models
from ...random import seeded
from ...types import Request
from ..kinds import Case
from ..subject import Subject
from .book import Ledger

if TYPE_CHECKING:
    from .serve import ServeJob

UNLAPSED = ("forgotten", "inconclusive", "not judged")
"""Outcomes of an earlier request that do not say that it came back."""


def look_again(
    job: ServeJob,
    whole: Subject,
    request: Request[Any],
    edited: Module,
    earlier: Sequence[str],
    names: Sequence[str],
) -> list[dict[str, Any]]:
    """Judge every earlier request again by the audit of this kind of model, those of few examples together.

    Args:
        job: how, and by how many references.
        whole: the data, with all that was ever deleted.
        request: that is served, in data without the earlier ones.
        edited: the model.
        earlier: requests to judge.
        names: requests that are served.

    Returns:
        One an earlier request or group: "request", "names", "outcome", "examples", "why".
    """
    ledger, recipe, found = job.ledger, whole.recipe, list[dict[str, Any]]()

    def told(group: Sequence[str], outcome: str, examples: int, why: str) -> None:
        label = ", ".join(group)
        found.append(
            {"request": label, "names": list(group), "outcome": outcome, "examples": examples, "why": why}
        )

    if recipe is None or not (job.oracles and job.holders):
        for name in earlier:
            told([name], "not judged", 0, "there are no reference models")
        return found
    build = partial(
        build_models, recipe, jobs=job.jobs, cache=Path(job.cache).expanduser() if job.cache else None,
        network=whole.architecture,
    )  # fmt: skip
    oracles = build(request.retain, [1_000_000 + 1000 * job.seed + i for i in range(job.oracles)])
    holders = build(whole.train, [2_000_000 + 1000 * job.seed + i for i in range(job.holders)])
    rest = whole.without(ledger.positions(whole, [*earlier, *names])).train
    for group, positions in _groups(ledger, whole, earlier).items():
        if not positions:
            told(group, "not judged", 0, "its examples are not in the data any more")
            continue
        case = Case(
            request=Request(whole.train.subset(torch.tensor(positions)), rest, whole.heldout), original=holders[0],
            holders=holders[1:], oracles=oracles, rng=seeded(job.seed), quick=job.quick,
        )  # fmt: skip
        verdict = whole.kind.judge(case).decide(edited).verdict
        told(group, verdict.outcome, len(positions), verdict.why)
    return found


def _groups(ledger: Ledger, whole: Subject, earlier: Sequence[str]) -> dict[tuple[str, ...], list[int]]:
    """Earlier requests that are judged together -> where their examples are; few examples are pooled."""
    each = {r: ledger.positions(whole, [r]) for r in earlier}
    small = tuple(r for r, p in each.items() if 0 < len(p) < whole.kind.least)
    groups: dict[tuple[str, ...], list[int]] = {(r,): p for r, p in each.items() if r not in small}
    if small:
        groups[small] = sorted(i for r in small for i in each[r])
    return groups
