"""`unweave compare`."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import process_time
from typing import Any, Literal

import torch
import tyro
from rich.console import Console
from rich.table import Table

from ..catalogue import find
from ..errors import InputError
from ..io.content import described, fingerprint
from ..io.files import write_text
from ..io.runs import RunFolder
from ..jobs.forget import default_cache
from ..jobs.trials import Figures, Summary, Trial, run_trials, summarise, to_json, trials_from_json
from ..jobs.world import Folder, World, open_world
from ..masks.mask import Mask
from ..parallel import build_models, engine
from ..random import seeded
from ..report import pictures, words
from ..report.page import Section, render_page
from ..tasks import accuracy
from ..types import Data, Edit, Request
from ._options import named_methods, named_run, parse, with_methods
from ._training import OWN, refuse_idle_sparsity, trained_with, with_training_options
from .forget import edit_of, select

EXAMPLE = """  unweave compare
  unweave compare --methods recipe sam zo-sam --seeds 5
  unweave compare project.py --methods magnitude snip rigl gmp --sparsity 0.95
  unweave compare project.py --methods rigl rigl+sam --sparsity 0.9 --baseline rigl
  unweave compare project.py --classes dog --methods fine-tune salun scrub --seeds 5
  unweave compare project.py --methods recipe sam --seeds 20 --engine ray

Optimisers, sparse trainings and ways to prune train the recipe anew; methods of family unlearn edit the model that the
recipe trains, and are measured beside a retraining without the data. Each method named adds its flags: add --help."""
DEFAULT = (OWN, "sam", "rigl")


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Run several methods over several seeds and compare them seed by seed.

    Attributes:
        project: your project.py, a transformers image-classification folder, or nothing for the embedded digits.
        data: images of a transformers folder: imagefolder:PATH, with train and test (or validation) below it.
        methods: what to compare; "recipe" is the recipe as it is, and "a+b" puts two together: "rigl+sam" trains
            sparsely with SAM, "unprune+salun" un-prunes around SalUn.
        baseline: differences are from this one; the first method unless given.
        seeds: how many; seed 0 is the first. All methods see the same ones.
        base: what an optimiser that wraps another wraps; the recipe's own unless given.
        sparsity: share of the weights that pruning and sparse training remove; the methods' own unless given.
        epochs: passes over the data; the recipe's own unless given.
        ids: file with the ids to delete, for methods of family unlearn; see `unweave forget --help`.
        classes: classes to delete.
        where: delete examples whose column has this value: COLUMN=VALUE.
        random: delete this many examples drawn at random.
        seed: governs which examples --random draws.
        jobs: processes at once; 0 takes all cores.
        engine: "joblib" for the cores of this machine, or "ray" for a Ray cluster.
        cache: folder of trained models, shared with `unweave forget`; UNWEAVE_CACHE or ~/.cache/unweave unless given.
        out: folder of the run; the same command on the same folder goes on where it was stopped. Named by the settings
            unless given.
        json: print the figures as JSON.
    """

    project: tyro.conf.Positional[str] = ""
    data: str = ""
    methods: tuple[str, ...] = DEFAULT
    baseline: str = ""
    seeds: int = 3
    base: str = ""
    sparsity: float | None = None
    epochs: int | None = None
    ids: Path | None = None
    classes: tuple[str, ...] = ()
    where: str = ""
    random: int | None = None
    seed: int = 0
    jobs: int = 0
    engine: Literal["joblib", "ray"] = "joblib"
    cache: Path | None = None
    out: Path | None = None
    json: bool = False


def run(argv: Sequence[str]) -> int:
    """Compare. Exit code 0 if every trial ran, 3 if some failed."""
    chains = named_methods(argv, ("--methods",), "") if "--methods" in " ".join(argv) else list(DEFAULT)
    unlearners = [chain for chain in chains if _unlearns(chain)]
    trainers = [chain for chain in chains if chain not in unlearners]
    options = with_training_options(with_methods(Compare, unlearners), trainers)
    asked: Any = parse(options, argv, command="compare", example=EXAMPLE)
    if asked.seeds < 1:
        raise InputError(f"--seeds must be at least 1; got {asked.seeds}.")
    if len(set(asked.methods)) < max(2, len(asked.methods)):
        raise InputError(
            f"--methods needs two or more different methods; got {' '.join(asked.methods) or 'none'}."
        )
    baseline = asked.baseline or asked.methods[0]
    if baseline not in asked.methods:
        raise InputError(
            f"--baseline must be one of --methods ({', '.join(asked.methods)}); got {baseline!r}."
        )
    world = open_world(asked.project, Folder(data=asked.data))
    work = _work(asked, world, unlearners, trainers)
    seeds = list(range(asked.seeds))
    settings = {"methods": {n: w.settings() for n, w in work.items()}, "seeds": seeds, "baseline": baseline}
    out_folder = asked.out or named_run("compare", settings, asked.project, asked.seed)
    inputs: dict[str, Path | str] = {
        **world.files,
        "training data": fingerprint(world.train),
        "held-out data": fingerprint(world.heldout),
    }
    command = ["unweave", "compare", *argv]
    with RunFolder.open(
        out_folder, settings=settings, inputs=inputs, seed=asked.seed, command=command
    ) as folder:
        with folder.stage("compare", "compare.json") as stage:
            if stage.todo:
                with engine(asked.engine):
                    first = next(iter(work.values()))
                    if isinstance(first, _Edited):
                        # or the trials of one seed would each train the same models
                        first.prepare(seeds, asked.jobs or None)
                    trials = run_trials(work, seeds, keep=stage.work, jobs=asked.jobs or None)
                if all(t.error for t in trials):
                    raise InputError(f"every trial failed. The first: {trials[0].method}: {trials[0].error}")
                write_text(stage.paths[0], to_json(trials, baseline))
            text = stage.paths[0].read_text(encoding="utf-8")
        trials = trials_from_json(text)
        told = summarise(trials, baseline)
        with folder.stage("report", "report.html") as stage:
            if stage.todo:
                write_text(stage.paths[0], _page(world, trials, told, baseline, folder.record, command))
    failed = [t for t in trials if t.error]
    if asked.json:
        sys.stdout.write(text)
    else:
        show(out_folder)
    return 3 if failed else 0


def show(folder: Path) -> None:
    """Print a finished run's table."""
    text = (folder / "compare.json").read_text(encoding="utf-8")
    trials, baseline = trials_from_json(text), json.loads(text)["baseline"]
    out = Console(highlight=False, soft_wrap=True)
    out.print(_table(trials, summarise(trials, baseline), baseline), soft_wrap=False)
    for t in trials:
        if t.error:
            out.print(f"failed: {t.method}, seed {t.seed}: {t.error}", markup=False)
    out.print(f"\nReport: {folder / 'report.html'}", markup=False)


@dataclass(frozen=True)
class _Trained:
    """Train the recipe at a seed."""

    recipe: Any
    train: Data[Any]
    heldout: Data[Any]

    def settings(self) -> Any:
        """What it does, as plain JSON."""
        return described(self.recipe)

    def __call__(self, seed: int) -> Figures:
        began = process_time()
        model = self.recipe.build(self.train, rng=seeded(seed)).eval()
        seconds = process_time() - began
        return {
            "held-out accuracy": (accuracy(model, self.heldout), "%"),
            "training accuracy": (accuracy(model, self.train), "%"),
            "weights that live": (100 * Mask.of(model).density(), "%"),
            "processor time of the training": (seconds, "s"),
        }


@dataclass(frozen=True)
class _Edited:
    """Edit the model that the recipe trains at a seed, and measure it beside a retraining at that seed."""

    edit: Edit[Request[Any]] | None
    recipe: Any
    request: Request[Any]
    train: Data[Any]
    cache: Path

    def prepare(self, seeds: Sequence[int], jobs: int | None) -> None:
        """Train the models of every seed, with and without the data, into the cache."""
        for data, label in (
            (self.train, "train the models"),
            (self.request.retain, "retrain without the data"),
        ):
            build_models(self.recipe, data, seeds, jobs=jobs, cache=self.cache, label=label)

    def settings(self) -> Any:
        """What it does, as plain JSON."""
        positions = torch.as_tensor(getattr(self.request.forget.examples, "indices", ()))
        return {
            "edit": described(self.edit),
            "recipe": described(self.recipe),
            "positions": described(positions),
        }

    def __call__(self, seed: int) -> Figures:
        oracle = build_models(self.recipe, self.request.retain, [seed], jobs=1, cache=self.cache, label="")[0]
        model = build_models(self.recipe, self.train, [seed], jobs=1, cache=self.cache, label="")[0]
        began = process_time()
        if self.edit is not None:
            model = self.edit.apply(model, self.request, rng=seeded(seed)).eval()
        seconds = process_time() - began
        parts = {
            "forget": self.request.forget,
            "retain": self.request.retain,
            "held-out": self.request.heldout,
        }
        mine = {name: accuracy(model, data) for name, data in parts.items()}
        gaps = [abs(mine[name] - accuracy(oracle, data)) for name, data in parts.items()]
        return {
            "average gap to retraining": (sum(gaps) / len(gaps), "points"),
            **{f"{name} accuracy": (value, "%") for name, value in mine.items()},
            "processor time of the edit": (seconds, "s"),
        }


def _work(
    asked: Any, world: World, unlearners: Sequence[str], trainers: Sequence[str]
) -> dict[str, _Trained] | dict[str, _Edited]:
    recipe = world.recipe
    if recipe is None:
        raise InputError(
            f"{world.name} has no recipe, so nothing can be trained. Define `recipe` in project.py."
        )
    if asked.epochs is not None:
        if not (dataclasses.is_dataclass(recipe) and hasattr(recipe, "epochs")):
            raise InputError(f"--epochs: the recipe, a {type(recipe).__name__}, has no `epochs`.")
        recipe = dataclasses.replace(recipe, epochs=asked.epochs)
        world = dataclasses.replace(world, recipe=recipe)
    if not unlearners:
        chosen = {chain: trained_with(recipe, chain, asked) for chain in asked.methods}
        refuse_idle_sparsity(asked.sparsity, recipe, chosen.values())
        return {chain: _Trained(changed, world.train, world.heldout) for chain, changed in chosen.items()}
    others = [chain for chain in trainers if chain != OWN]
    if others:
        raise InputError(
            f"{', '.join(others)} train a model and {', '.join(unlearners)} edit one; they cannot be compared. "
            "Compare them in two runs."
        )
    request = Request.of(world.train, world.heldout, select(asked, world)[0])
    edits = {chain: None if chain == OWN else edit_of(chain, asked, world) for chain in asked.methods}
    cache = (asked.cache or default_cache()).expanduser()
    return {chain: _Edited(edit, recipe, request, world.train, cache) for chain, edit in edits.items()}


def _unlearns(chain: str) -> bool:
    from ._training import is_torch_optimizer

    names = [name for name in chain.split("+") if name and name != OWN and not is_torch_optimizer(name)]
    return any(find(name).family == "unlearn" for name in names)


def _table(trials: Sequence[Trial], told: Mapping[str, Mapping[str, Summary]], baseline: str) -> Table:
    units = _units(trials)
    table = Table(box=None, pad_edge=False)
    for heading in (
        "figure",
        "method",
        "mean ± spread",
        f"difference from {baseline} (95 % interval)",
        "seeds",
    ):
        table.add_column(heading, justify="left" if heading in ("figure", "method") else "right")
    for figure, rows in told.items():
        for i, (method, s) in enumerate(rows.items()):
            title = f"{figure}{', ' + units[figure] if units[figure] else ''}" if i == 0 else ""
            table.add_row(title, method, _mean(s), _difference(s), str(len(s.values)))
    return table


def _mean(s: Summary) -> str:
    return words.number(s.mean) + ("" if s.spread != s.spread else f" ± {words.number(s.spread)}")


def _difference(s: Summary) -> str:
    if not s.differences:
        return "–"
    low, high = s.difference_interval
    return words.number(s.difference) + (
        "" if low != low else f" ({words.number(low)} to {words.number(high)})"
    )


def _units(trials: Sequence[Trial]) -> dict[str, str]:
    return {name: unit for t in trials for name, unit in t.units.items()}


def _page(
    world: World,
    trials: Sequence[Trial],
    told: Mapping[str, Mapping[str, Summary]],
    baseline: str,
    record: Mapping[str, Any],
    command: Sequence[str],
) -> str:
    units = _units(trials)
    seeds = len({t.seed for t in trials})
    failed = [t for t in trials if t.error]
    lead = [
        f"{len({t.method for t in trials})} methods over {seeds} seeds; differences are from {baseline}, seed by seed."
    ]
    if failed:
        lead.append(f"{len(failed)} of {len(trials)} trials failed; they are listed below and count nowhere.")
    sections = []
    for figure, rows in told.items():
        spread = partial(pictures.spreads, unit=units[figure])
        values, means = {n: s.values for n, s in rows.items()}, {n: s.interval for n, s in rows.items()}
        sections.append(
            Section(
                heading=figure.capitalize(), caption="A dot a seed, a bar at the mean, a line over its 95 % interval.",
                picture=spread(values, intervals=means),
                columns=("method", "mean ± spread", f"difference from {baseline} (95 % interval)", "seeds"),
                rows=[(n, _mean(s), _difference(s), str(len(s.values))) for n, s in rows.items()],
            )
        )  # fmt: skip
        apart = {n: s for n, s in rows.items() if s.differences}
        if apart:
            sections.append(
                Section(
                    heading=f"{figure.capitalize()}: difference from {baseline}", caption="Seed by seed.",
                    picture=spread(
                        {n: s.differences for n, s in apart.items()},
                        intervals={n: s.difference_interval for n, s in apart.items()}, zero=True,
                    ),
                )
            )  # fmt: skip
    if failed:
        sections.append(
            Section(
                heading="Failed trials", columns=("method", "seed", "error"),
                rows=[(t.method, str(t.seed), t.error) for t in failed],
            )
        )  # fmt: skip
    run = {k: record[k] for k in ("settings", "seed", "versions", "hardware", "inputs")}
    return render_page(
        "Methods compared", kicker=f"On {world.name}", lead=lead, sections=sections,
        run={"command": " ".join(command), **run},
    )  # fmt: skip
