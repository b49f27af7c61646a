"""Compare several methods over several seeds: ways to train, or edits of what the recipe trains."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from time import process_time
from typing import Any, Literal, Self

from rich.console import Console
from torch import Tensor

from ..catalogue import roles_of
from ..errors import InputError
from ..fit.named import trained_by
from ..io.content import described, fingerprint
from ..io.files import write_text
from ..io.model_cache import Lineage
from ..io.runs import RunFolder
from ..io.sealed import token
from ..masks.scope import share_kept
from ..parallel import build_models, engine
from ..random import seeded
from ..report import tables
from ..report.comparisons import ALIVE, grouped, render_comparison, units_of
from ..settings import Count, settings
from ..statistics import Summary, Trial, summarise
from ..tasks import ability
from ..types import Data, Edit, Recipe, Request
from ..unlearn.worst_case_forget import Which, WorstCaseForget
from .deletion import Deletion
from .done import Done, facts_of
from .trials import Figures, run_trials, to_json, trials_from_json


@dataclass(frozen=True)
class Compared(Done):
    """A finished comparison.

    Attributes:
        trials: by method, then seed; failed ones say why.
        baseline: the method that differences are from.
        curves: line -> sparsity -> the method that stands there.
        by: method -> what trains it, in words, where that is known.
    """

    trials: tuple[Trial, ...]
    baseline: str
    curves: Mapping[str, Mapping[float, str]] = field(default_factory=dict)
    by: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read a finished run."""
        text = (folder / "compare.json").read_text(encoding="utf-8")
        told = json.loads(text)
        curves = {n: {float(s): m for s, m in line.items()} for n, line in told.get("curves", {}).items()}
        return cls(folder, tuple(trials_from_json(text)), told["baseline"], curves, told.get("by", {}))

    @property
    def figures(self) -> dict[str, dict[str, Summary]]:
        """Figure -> method -> mean, spread and differences over the seeds."""
        return summarise(self.trials, self.baseline)

    @property
    def failed(self) -> list[Trial]:
        """Trials that failed; they count nowhere."""
        return [t for t in self.trials if t.error]

    def json(self) -> str:
        """Trials and figures as strict JSON."""
        return (self.folder / "compare.json").read_text(encoding="utf-8")

    def tell(self, out: Console) -> None:
        """Print every figure of every method, and the trials that failed."""
        for words, names in grouped(self.by).items():
            out.print(f"{', '.join(names)}: trained by {words}", markup=False)
        table = tables.comparison(self.figures, units_of(self.trials), self.baseline)
        out.print(table, soft_wrap=False)
        for t in self.failed:
            out.print(f"failed: {t.method}, seed {t.seed}: {t.error}", markup=False)
        out.print(f"\nReport: {self.page}", markup=False)


@settings
class CompareJob(Deletion):
    """Run several methods at the same seeds and compare them seed by seed.

    Recipes are trained; edits are applied to the model that the subject's recipe trains at each seed, and measured
    beside a retraining without the data. The two kinds cannot be mixed.

    Attributes:
        methods: name -> recipe or edit; None is the subject's recipe as it is, or the model unedited.
        hardest: which of the sets of `random` examples to forget: "random" draws them; "worst" and "easiest" are those
            hardest and easiest to erase from the model that the recipe trains at seed 0 (`unlearn.WorstCaseForget`),
            "lowest-loss" and "highest-loss" the plain controls beside them. One set for all seeds, chosen at once.
        baseline: differences are from this one; the first method unless given.
        seeds: how many; seed 0 is the first. All methods see the same ones.
        curves: line -> sparsity -> which of `methods` stands there: the report draws accuracy over sparsity, with every
            method that stands on no line as a band. See `jobs.curves.along`.
        seed: of what `random` draws.
        engine: "joblib" for the cores of this machine, or "ray" for a Ray cluster.
    """

    methods: Mapping[str, Recipe | Edit[Any] | None]
    hardest: Which = "random"
    baseline: str = ""
    seeds: Count = 3
    engine: Literal["joblib", "ray"] = "joblib"
    curves: Mapping[str, Mapping[float, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        who, names = type(self).__name__, ", ".join(self.methods) or "none"
        if len(self.methods) < 2:
            raise InputError(f"{who}.methods needs two or more different methods; got {names}.")
        if self.baseline and self.baseline not in self.methods:
            raise InputError(f"{who}.baseline must be one of {who}.methods ({names}); got {self.baseline!r}.")
        if self.hardest != "random" and self.random is None:
            raise InputError(
                f"{who}.hardest={self.hardest!r} says which set of a size to forget; give {who}.random, its size."
            )
        strange = [m for line in self.curves.values() for m in line.values() if m not in self.methods]
        if strange:
            raise InputError(f"{who}.curves names {strange[0]!r}, which is none of {who}.methods ({names}).")
        _ = self.work

    def _by_random(self, n: int) -> tuple[Tensor, str]:
        positions, words = super()._by_random(n)
        if self.hardest == "random":
            return positions, words
        recipe = self.subject.require_recipe("no model can be trained to choose by")
        (model,) = build_models(
            recipe, self.subject.train, [0], cache=self.models, label="train the model to choose by"
        )
        method = WorstCaseForget(size=len(positions), which=self.hardest)
        found = method.select(model, self.subject.train, rng=seeded(self.seed))
        words = f"the {self.hardest} set for the model of seed 0, {100 * found.agreement:.0f} % of it by extreme losses"
        return found.positions, words

    @cached_property
    def work(self) -> dict[str, TrainTrial] | dict[str, EditTrial]:
        """Name -> what a trial does.

        Raises:
            InputError: if ways to train and edits are mixed, or examples to forget are named for ways to train.
        """
        recipe = self.subject.require_recipe("nothing can be trained")
        train, heldout, methods = self.subject.left.train, self.subject.heldout, dict[str, Any](self.methods)
        given = {name: method for name, method in methods.items() if method is not None}
        edits = [name for name, method in given.items() if "Edit" in roles_of(type(method))]
        trains = [name for name in given if name not in edits]
        if edits and trains:
            raise InputError(
                f"{', '.join(trains)} train a model and {', '.join(edits)} edit one; they cannot be compared. "
                "Compare them in two runs."
            )
        if edits:
            split, positions = self.request, self.selected[0]
            return {n: EditTrial(m, recipe, split, positions, train, self.models) for n, m in methods.items()}
        if self.named:
            raise InputError(
                f"{type(self).__name__}.{self.named[0]} names examples to forget, but no method forgets. Name one of "
                "family unlearn, or leave it out."
            )
        return {n: TrainTrial(recipe if m is None else m, train, heldout) for n, m in methods.items()}

    def plan(self) -> dict[str, Any]:
        """What is to be done, as plain JSON; a run goes on only under the same plan."""
        chosen = {} if self.hardest == "random" else {"forget": self.selected[1]}
        return {
            "methods": {name: work.plan() for name, work in self.work.items()},
            "seeds": list(range(self.seeds)),
            "baseline": self.baseline or next(iter(self.methods)),
            **({"curves": {n: list(line) for n, line in self.curves.items()}} if self.curves else {}),
            **chosen,
        }

    def run(self, out: Path | str, *, command: Sequence[str] = ()) -> Compared:
        """Run every trial, or go on with a run that was stopped.

        Args:
            out: run folder; see `RunFolder`.
            command: as the user typed it.

        Raises:
            InputError: if every trial failed.
        """
        inputs = self.subject.inputs()
        with RunFolder.open(
            Path(out), settings=self.plan(), inputs=inputs, seed=self.seed, command=command
        ) as run:
            with run.stage("compare", "compare.json") as stage:
                if stage.todo:
                    trials = self._trials(stage.work)
                    write_text(
                        stage.paths[0],
                        to_json(trials, self.plan()["baseline"], curves=self.curves, by=self._by()),
                    )
            found = Compared.read(run.path)
            with run.stage("report", "report.html") as stage:
                if stage.todo:
                    page = render_comparison(
                        found.trials, found.figures, baseline=found.baseline, subject=self.subject.name,
                        curves=found.curves, by=found.by,
                        run=facts_of(run, command, self.subject.notes),
                    )  # fmt: skip
                    write_text(stage.paths[0], page)
        return found

    def _by(self) -> dict[str, str]:
        """Method -> the optimiser that trains it, in words; nothing of edits and of loops of the user's own."""
        recipes = {n: w.recipe for n, w in self.work.items() if isinstance(w, TrainTrial)}
        return {n: words for n, recipe in recipes.items() if (words := trained_by(recipe))}

    def _trials(self, keep: Path) -> list[Trial]:
        seeds = list(range(self.seeds))
        with engine(self.engine):
            first = next(iter(self.work.values()))
            if isinstance(first, EditTrial):
                # or the trials of one seed would each train the same models
                first.prepare(seeds, self.jobs)
            trials = run_trials(self.work, seeds, keep=keep, jobs=self.jobs)
        if all(t.error for t in trials):
            raise InputError(f"every trial failed. The first: {trials[0].method}: {trials[0].error}")
        return trials


@dataclass(frozen=True)
class TrainTrial:
    """Train a recipe at a seed."""

    recipe: Recipe
    train: Data[Any]
    heldout: Data[Any]

    def plan(self) -> Any:
        """What it does, as plain JSON."""
        return described(self.recipe)

    def __call__(self, seed: int) -> Figures:
        """Train and measure."""
        began = process_time()
        model = self.recipe.build(self.train, rng=seeded(seed)).eval()
        seconds = process_time() - began
        name, right, unit = ability(model, self.heldout)
        return {
            f"held-out {name}": (right, unit),
            f"training {name}": (ability(model, self.train)[1], unit),
            ALIVE: (100 * share_kept(model), "%"),
            "processor time of the training": (seconds, "s"),
        }


@dataclass(frozen=True)
class EditTrial:
    """Edit the model that the recipe trains at a seed, and measure it beside a retraining at that seed."""

    edit: Edit[Request[Any]] | None
    recipe: Recipe
    request: Request[Any]
    positions: Tensor
    train: Data[Any]
    cache: Path

    def plan(self) -> Any:
        """What it does, as plain JSON."""
        return {
            "edit": described(self.edit),
            "recipe": described(self.recipe),
            "positions": token(self.positions.numpy().tobytes()),
        }

    def prepare(self, seeds: Sequence[int], jobs: int | None) -> None:
        """Train the models of every seed, with and without the data, into the cache."""
        whole = Lineage(fingerprint(self.train), len(self.train))
        for data, made_of, label in (
            (self.train, whole, "train the models"),
            (self.request.retain, replace(whole, without=self.positions), "retrain without the data"),
        ):
            build_models(
                self.recipe, data, seeds, jobs=jobs, cache=self.cache, label=label, lineage=made_of
            )  # fmt: skip

    def __call__(self, seed: int) -> Figures:
        """Edit and measure."""
        oracle, model = (
            build_models(self.recipe, data, [seed], jobs=1, cache=self.cache, label="")[0]
            for data in (self.request.retain, self.train)
        )
        began = process_time()
        if self.edit is not None:
            model = self.edit.apply(model, self.request, rng=seeded(seed)).eval()
        seconds = process_time() - began
        parts = {
            "forget": self.request.forget, "retain": self.request.retain, "held-out": self.request.heldout
        }  # fmt: skip
        name, _, unit = ability(model, self.request.heldout)
        mine = {part: ability(model, data)[1] for part, data in parts.items()}
        gaps = [abs(mine[part] - ability(oracle, data)[1]) for part, data in parts.items()]
        return {
            "average gap to retraining": (sum(gaps) / len(gaps), "points" if unit == "%" else unit),
            **{f"{part} {name}": (value, unit) for part, value in mine.items()},
            "processor time of the edit": (seconds, "s"),
        }
