"""The main job, stage by stage: edit, train what to compare with, audit, report. The command line only calls this."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from ..audit import audit
from ..audit.rates import published
from ..audit.result import Audit
from ..errors import InputError
from ..fit import estimating, resumable
from ..io.checkpoint import save_model
from ..io.files import write_text
from ..io.runs import RunFolder, Stage
from ..masks.mask import Mask
from ..parallel import (
    build_models,
    cache_folder,
    default_jobs,
    fingerprint,
    parallel_map,
    single_threaded,
    training_cost,
)
from ..progress import progress
from ..random import seeded
from ..report.audits import from_json, render_html, render_markdown, to_json
from ..types import Data, Edit, Recipe, Request
from .world import World

FILES = {"audit": "audit.json", "html": "report.html", "markdown": "report.md"}


@dataclass(frozen=True, kw_only=True)
class Job:
    """One deletion request on one model.

    Attributes:
        world: the user's model and data.
        positions: of the training examples to forget.
        wording: the request in words, for the report.
        edits: name -> edit; the first is handed out, the others are compared with it.
        edited: name -> weights of models edited elsewhere, instead of `edits`.
        model: weights of the model to edit; None trains it by the recipe.
        oracles: models to retrain without the data.
        holders: models to retrain with it, to know how much models differ by chance.
        seed: governs everything.
        quick: spend less on the audit's costly figures; the verdict's reference models stay the same.
        jobs: processes for training; all cores unless given.
        cache: folder of oracles and holders, shared between requests.
    """

    world: World
    positions: Tensor
    wording: str
    edits: Mapping[str, Edit[Any]] = field(default_factory=dict)
    edited: Mapping[str, Path] = field(default_factory=dict)
    model: Path | None = None
    oracles: int = 8
    holders: int = 8
    seed: int = 0
    quick: bool = False
    jobs: int | None = None
    cache: Path = Path("~/.cache/unweave/models")

    def __post_init__(self) -> None:
        if self.oracles < 0 or self.holders < 0:
            raise InputError(
                f"oracles and holders must not be negative; got {self.oracles} and {self.holders}."
            )
        if not self.edits and not self.edited:
            raise InputError("name at least one method, or one model edited elsewhere.")
        if self.world.recipe is None and (self.oracles or self.holders or self.model is None):
            raise InputError(
                f"{self.world.name} has no recipe, so nothing can be trained: define `recipe`, or give --model and "
                "--oracles 0 --holders 0; the report then says what cannot be concluded."
            )

    @property
    def request(self) -> Request[Any]:
        """The validated split."""
        return Request.of(self.world.train, self.world.heldout, self.positions)

    @property
    def oracle_seeds(self) -> list[int]:
        """Seeds of the retrained models."""
        return [1_000_000 + 1000 * self.seed + i for i in range(self.oracles)]

    @property
    def holder_seeds(self) -> list[int]:
        """Seeds of the models that hold the data."""
        return [2_000_000 + 1000 * self.seed + i for i in range(self.holders)]


@dataclass(frozen=True)
class Done:
    """A finished run.

    Attributes:
        folder: where it lies.
        audits: the model that is handed out first.
    """

    folder: Path
    audits: tuple[Audit, ...]


def forget(job: Job, out: Path, *, settings: Mapping[str, Any], command: Sequence[str]) -> Done:
    """Run every stage, or go on with a run that was stopped, to the same bits.

    Args:
        job: what to do.
        out: run folder; see `RunFolder`.
        settings: plain JSON, must be the same to go on.
        command: as the user typed it.
    """
    request = job.request
    inputs: dict[str, Path | str] = dict(job.world.files)
    inputs |= {"model": job.model} if job.model else {}
    inputs |= {"training data": fingerprint(job.world.train), "held-out data": fingerprint(job.world.heldout)}
    inputs |= {f"edited {name}": path for name, path in job.edited.items()}
    # read before the folder is touched: a damaged file leaves no trace
    given = None if job.model is None else job.world.load(job.model).eval()
    elsewhere = {name: job.world.load(path).eval() for name, path in job.edited.items()}
    cache = job.cache.expanduser()
    steps = 3 + len(job.edits) + (job.model is None)
    with (
        RunFolder.open(out, settings=settings, inputs=inputs, seed=job.seed, command=command) as run,
        progress(f"{out}", steps) as bar,
    ):
        original = _original(job, run) if given is None else given
        bar.advance(int(job.model is None))
        edited: dict[str, Module] = {}
        cost: dict[str, dict[str, float]] = {}
        for i, (name, edit) in enumerate(job.edits.items()):
            folder = "model" if i == 0 else f"compared/{_slug(name)}"
            with run.stage(f"edit {name}", folder, f"costs/{_slug(name)}.json") as stage:
                if stage.todo:
                    _edit(job, edit, original, request, stage)
            edited[name] = job.world.load(stage.paths[0]).eval()
            cost[name] = json.loads(stage.paths[1].read_text(encoding="utf-8"))
            bar.advance()
        edited |= elsewhere
        with run.stage("reference", "costs/retrain.json") as stage:
            oracles, holders, retrain = _reference(job, request, cache)
            if stage.todo:
                write_text(stage.paths[0], json.dumps(retrain) + "\n")
            retrain = json.loads(stage.paths[0].read_text(encoding="utf-8"))
        bar.advance()
        with run.stage("audit", FILES["audit"]) as stage:
            if stage.todo:
                audits = []
                with progress("audit", len(edited)) as judged:
                    for name, model in edited.items():
                        audits.append(
                            audit(
                                model, request, original=original, holders=holders, oracles=oracles, method=name,
                                seconds=_seconds(cost.get(name), retrain), rng=seeded(job.seed), quick=job.quick,
                            )
                        )  # fmt: skip
                        judged.advance()
                write_text(stage.paths[0], to_json(audits))
            found = from_json(stage.paths[0].read_text(encoding="utf-8"))
        bar.advance()
        with run.stage("report", FILES["html"], FILES["markdown"]) as stage:
            if stage.todo:
                told = _told(job, run, cost, retrain, command)
                write_text(stage.paths[0], render_html(found, told, published()))
                write_text(stage.paths[1], render_markdown(found, told, published()))
        bar.advance()
    return Done(out, found)


def estimate(job: Job) -> dict[str, float]:
    """Seconds that `forget` would take, by stage, found by beginning each training and cutting it short.

    Nothing is written. What is in the cache already costs nothing.
    """
    request, world = job.request, job.world
    cache = job.cache.expanduser()
    seconds: dict[str, float] = {}
    with estimating() as cut:
        began = perf_counter()
        if job.model is None:
            assert world.recipe is not None
            recipe = world.recipe
            original = single_threaded(lambda rng: recipe.build(world.train, rng=rng), seeded(job.seed))
            seconds["train the model"] = perf_counter() - began + cut.seconds
        else:
            original = world.load(job.model)
        edited = {}
        for name, edit in job.edits.items():
            began, before = perf_counter(), cut.seconds
            edited[name] = single_threaded(partial(_apply, edit, original, request), seeded(job.seed))
            seconds[f"edit {name}"] = perf_counter() - began + cut.seconds - before
        edited |= {name: original for name in job.edited}
    jobs = job.jobs or default_jobs()
    reference: list[list[Module]] = []
    for group, data, seeds in (
        ("oracles", request.retain, job.oracle_seeds),
        ("holders", world.train, job.holder_seeds),
    ):
        absent = [s for s in seeds if not _is_cached(world.recipe, data, s, cache)]
        if absent:
            assert world.recipe is not None
            trials = parallel_map(partial(_trial, world.recipe, data), absent[: max(jobs, 1)], jobs=jobs)
            each = sum(t for _, t in trials) / len(trials)
            seconds[f"train {len(absent)} {group}"] = each * -(-len(absent) // jobs)
            reference.append([trials[i % len(trials)][0] for i in range(len(seeds))])
        else:
            reference.append([original] * len(seeds))
    with estimating() as cut:
        began = perf_counter()
        for name, model in edited.items():
            audit(
                model,
                request,
                original=original,
                holders=reference[1],
                oracles=reference[0],
                method=name,
                rng=seeded(job.seed),
                quick=job.quick,
            )
        seconds["audit"] = perf_counter() - began + cut.seconds
    return seconds


def _apply(edit: Edit[Any], model: Module, request: Request[Any], rng: torch.Generator) -> Module:
    return edit.apply(model, request, rng=rng)


def _trial(recipe: Recipe, data: Data[Any], seed: int) -> tuple[Module, float]:
    with estimating() as cut:
        began = perf_counter()
        model = recipe.build(data, rng=seeded(seed)).eval()
        return model, perf_counter() - began + cut.seconds


def _is_cached(recipe: Recipe | None, data: Data[Any], seed: int, cache: Path) -> bool:
    return recipe is not None and (cache_folder(recipe, data, cache) / f"{seed}.json").exists()


def _original(job: Job, run: RunFolder) -> Module:
    world = job.world
    with run.stage("train", "original") as stage:
        if stage.todo:
            recipe = world.recipe
            assert recipe is not None
            with resumable(stage.work):
                model = single_threaded(lambda rng: recipe.build(world.train, rng=rng), stage.rng)
            _save(world, model, stage.paths[0])
    return world.load(stage.paths[0]).eval()


def _edit(job: Job, edit: Edit[Any], original: Module, request: Request[Any], stage: Stage) -> None:
    began, began_cpu = perf_counter(), process_time()
    resumed = any(stage.work.glob("*"))
    with resumable(stage.work):
        model = single_threaded(partial(_apply, edit, original, request), stage.rng)
    times = {"seconds": perf_counter() - began, "cpu_seconds": process_time() - began_cpu}
    _save(job.world, model, stage.paths[0])
    write_text(stage.paths[1], json.dumps({"resumed": resumed, **times}) + "\n")


def _reference(
    job: Job, request: Request[Any], cache: Path
) -> tuple[list[Module], list[Module], dict[str, float]]:
    recipe = job.world.recipe
    if recipe is None or not (job.oracles or job.holders):
        return [], [], {}
    # with the retain set of another request as data, an oracle of one request is a holder of none
    oracles = build_models(
        recipe, request.retain, job.oracle_seeds, jobs=job.jobs, cache=cache, label="train oracles"
    )
    holders = build_models(
        recipe,
        job.world.train,
        job.holder_seeds,
        jobs=job.jobs,
        cache=cache,
        label="train models that hold the data",
    )
    return oracles, holders, training_cost(recipe, request.retain, job.oracle_seeds, cache) or {}


def _seconds(cost: Mapping[str, float] | None, retrain: Mapping[str, float]) -> dict[str, float] | None:
    if not cost:
        return None
    return {"edit": cost["cpu_seconds"], **({"retrain": retrain["cpu_seconds"]} if retrain else {})}


def _told(
    job: Job,
    run: RunFolder,
    cost: Mapping[str, Mapping[str, float]],
    retrain: Mapping[str, float],
    command: Sequence[str],
) -> dict[str, Any]:
    record = run.record
    return {
        "request": job.wording,
        "model": job.world.name,
        "command": " ".join(command),
        "cost": {
            "edit": {n: c["cpu_seconds"] for n, c in cost.items()},
            **({"retrain": retrain["cpu_seconds"]} if retrain else {}),
        },
        "settings": record["settings"],
        "seed": job.seed,
        "versions": record["versions"],
        "hardware": record["hardware"],
        "sha256 of inputs": record["inputs"],
        "sha256 of results": {f: h for s in record["stages"].values() for f, h in s["artefacts"].items()},
        "seconds of each stage": {
            name: t["seconds"] for name, t in record["times"]["stages"].items() if t["seconds"] is not None
        },
    }


def _save(world: World, model: Module, folder: Path) -> None:
    mask = Mask.of(model)
    if world.save is not None:
        world.save(model, folder, mask or None)
    else:
        save_model(model, folder, mask=mask or None)


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name)


def default_cache() -> Path:
    """UNWEAVE_CACHE, or ~/.cache/unweave."""
    return Path(os.environ.get("UNWEAVE_CACHE", "~/.cache/unweave")) / "models"
