"""How long a deletion would take: each training is begun and cut short, and nothing is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from time import perf_counter
from typing import Any

from torch import Generator
from torch.nn import Module

from ..errors import InputError
from ..fit import each, estimating
from ..fit.own_loop import OwnLoop
from ..masks.layers import copied
from ..parallel import cache_folder, default_jobs, single_threaded
from ..random import seeded
from ..types import Data, Recipe, Request
from .judging import Judging
from .kinds import Case

WORKERS = 4.0
"""Seconds in which the processes that train at once have started, where it was measured."""
Apply = Callable[[Module, Request[Any], Generator], Module]


def estimate(job: Judging, edits: Mapping[str, Apply | None]) -> dict[str, float]:
    """Seconds that a job would take, by stage, found by beginning each training and cutting it short.

    Of what is done to many models alike, one is timed: a training of the recipe, each part of the audit.

    Args:
        job: what to compare with, and how.
        edits: name -> (model, request, rng) -> edited model; None where it was edited elsewhere.

    Returns:
        Stage in words -> seconds. What is in the cache already costs nothing.
    """
    request, seconds = job.request, dict[str, float]()
    with _told(seconds, "read the data"):
        job.subject.inputs()  # refuses data that cannot be trained on
    original = job.subject.given()
    if original is None:
        recipe = job.subject.require_recipe("no model can be trained")
        with _told(seconds, "train the model"):
            original = single_threaded(partial(_build, recipe, job.subject.left.train), seeded(job.seed))
    edited: dict[str, Module] = {}
    for name, edit in edits.items():
        edited[name] = original
        if edit is not None:
            with _told(seconds, f"edit {name}"):
                edited[name] = single_threaded(partial(edit, original, request), seeded(job.seed))
    oracle = _trainings(job, original, seconds)
    with _told(seconds, "audit"):
        _audits(job, original, oracle, edited)
    return seconds


@contextmanager
def _told(seconds: dict[str, float], name: str) -> Iterator[None]:
    with estimating() as cut:
        began = perf_counter()
        yield
        seconds[name] = perf_counter() - began + cut.seconds


def _trainings(job: Judging, original: Module, seconds: dict[str, float]) -> Module:
    """Seconds of the trainings to compare with that are not in the cache, and a stand-in for an oracle."""
    recipe, jobs, retain = job.subject.recipe, job.jobs or default_jobs(), job.request.retain
    if recipe is None or not (job.oracles or job.holders):
        return original
    took = dict[str, float]()
    with _told(took, "one"):
        oracle = single_threaded(partial(_build, recipe, retain), seeded(job.seed + 1)).eval()
    whole, started = job.subject.left.train, WORKERS
    for name, data, seeds in (("oracles", retain, job.oracle_seeds), ("holders", whole, job.holder_seeds)):
        cached = cache_folder(recipe, data, job.models)
        absent = sum(not (cached / f"{seed}.json").exists() for seed in seeds)
        if absent:
            rounds = -(-absent // jobs)
            one = took["one"] * data.steps / retain.steps
            seconds[f"train {absent} {name}"] = one * rounds + (started if min(jobs, absent) > 1 else 0.0)
            started = 0.0  # the processes stay for the next
    return oracle


def _audits(job: Judging, original: Module, oracle: Module, edited: Mapping[str, Module]) -> None:
    """The audit of every model: the references are read once, by the first."""
    holder = copied(original).eval()  # another than the original, which is counted among them
    case = Case(
        request=job.request, original=original, holders=[holder] * (job.holders + len(job.given_holders)),
        oracles=[oracle] * (job.oracles + len(job.given_oracles)), rng=seeded(job.seed), quick=job.quick,
    )  # fmt: skip
    auditor = job.subject.kind.judge(case)
    first, *others = list(edited.items())
    auditor.audit(first[1], method=first[0])
    each(lambda known: auditor.audit(known[1], method=known[0]), others)


def _build(recipe: Recipe, data: Data[Any], rng: Generator) -> Module:
    return recipe.build(data, rng=rng)


def repeating(recipe: Recipe | None, data: Data[Any]) -> list[str]:
    """Whether a recipe that is a function comes to the same bits by the same seed, as a sentence; [] of others."""
    if not isinstance(recipe, OwnLoop):
        return []
    try:
        alike = recipe.repeats(data)
    except InputError as error:
        return [f"whether the recipe repeats its bits for a seed cannot be told from a few examples: {error}"]
    if alike:
        return [
            "the recipe repeats its bits: two trainings on the first examples by one seed end in equal weights."
        ]
    return [
        "the recipe does not repeat its bits: two trainings on the first examples by one seed differ. Seed what it "
        "draws with its second argument, or a run that was stopped and cached models cannot be checked."
    ]
