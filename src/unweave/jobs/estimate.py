"""How long a deletion would take: each training is begun and cut short, and nothing is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from time import perf_counter
from typing import Any

from torch import Generator
from torch.nn import Module

from ..audit import audit
from ..errors import InputError
from ..fit import estimating
from ..fit.own_loop import OwnLoop
from ..parallel import cache_folder, default_jobs, parallel_map, single_threaded
from ..random import seeded
from ..types import Data, Recipe, Request
from .judging import Judging

Apply = Callable[[Module, Request[Any], Generator], Module]


def estimate(job: Judging, edits: Mapping[str, Apply | None]) -> dict[str, float]:
    """Seconds that a job would take, by stage, found by beginning each training and cutting it short.

    Args:
        job: what to compare with, and how.
        edits: name -> (model, request, rng) -> edited model; None where it was edited elsewhere.

    Returns:
        Stage in words -> seconds. What is in the cache already costs nothing.
    """
    job.subject.inputs()  # refuses data that cannot be trained on
    request = job.request
    seconds: dict[str, float] = {}
    with estimating() as cut:
        began = perf_counter()
        original = job.subject.given()
        if original is None:
            recipe = job.subject.require_recipe("no model can be trained")
            train = partial(_build, recipe, job.subject.left.train)
            original = single_threaded(train, seeded(job.seed))
            seconds["train the model"] = perf_counter() - began + cut.seconds
        edited: dict[str, Module] = {}
        for name, edit in edits.items():
            began, before = perf_counter(), cut.seconds
            edited[name] = original
            if edit is not None:
                edited[name] = single_threaded(partial(edit, original, request), seeded(job.seed))
                seconds[f"edit {name}"] = perf_counter() - began + cut.seconds - before
    oracles, took = _group(job, "oracles", request.retain, job.oracle_seeds, original)
    holders, more = _group(job, "holders", job.subject.left.train, job.holder_seeds, original)
    seconds |= {**took, **more}
    with estimating() as cut:
        began = perf_counter()
        for name, model in edited.items():
            audit(
                model, request, original=original, holders=holders, oracles=oracles, method=name,
                rng=seeded(job.seed), quick=job.quick,
            )  # fmt: skip
        seconds["audit"] = perf_counter() - began + cut.seconds
    return seconds


def _group(
    job: Judging, name: str, data: Data[Any], seeds: list[int], original: Module
) -> tuple[list[Module], dict[str, float]]:
    """Stand-ins for the models of these seeds, and the seconds that training those not in the cache would take."""
    recipe, jobs = job.subject.recipe, job.jobs or default_jobs()
    if recipe is None:
        return [], {}
    cached = cache_folder(recipe, data, job.models)
    absent = [seed for seed in seeds if not (cached / f"{seed}.json").exists()]
    if not absent:
        return [original] * len(seeds), {}
    trials = parallel_map(partial(_trial, recipe, data), absent[:jobs], jobs=jobs)
    each = sum(t for _, t in trials) / len(trials)
    models = [trials[i % len(trials)][0] for i in range(len(seeds))]
    return models, {f"train {len(absent)} {name}": each * -(-len(absent) // jobs)}


def _build(recipe: Recipe, data: Data[Any], rng: Generator) -> Module:
    return recipe.build(data, rng=rng)


def _trial(recipe: Recipe, data: Data[Any], seed: int) -> tuple[Module, float]:
    with estimating() as cut:
        began = perf_counter()
        model = recipe.build(data, rng=seeded(seed)).eval()
        return model, perf_counter() - began + cut.seconds


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
