"""Train a model that can forget exactly: a SISA or an S3T, stage by stage, in a run folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, Self

from rich.console import Console
from torch import Generator
from torch.nn import Module

from ..errors import InputError
from ..fit import recording
from ..io.content import described
from ..io.files import write_text
from ..io.runs import RunFolder, Stage
from ..parallel import single_threaded
from ..random import seeded
from ..report.exact import LIMITS, markdown_exact, render_exact
from ..report.models import value_text
from ..settings import settings
from ..tasks import Labelled, able, accuracy, predict
from ..types import Data
from ..unlearn.exact import Service, kept_in, open_exact, open_service, save_exact
from ..unlearn.exact.service import Run
from ..unlearn.s3t import S3T
from ..unlearn.sisa import SISA
from .done import Done, facts_of
from .subject import Subject

REPORTS = ("report.html", "report.md")


@dataclass(frozen=True)
class ExactlyTrained(Done):
    """A finished training of a model that can forget exactly.

    Attributes:
        figures: name -> (value, unit).
    """

    figures: Mapping[str, tuple[float, str]]

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read a finished run."""
        told = json.loads((folder / "exact-train.json").read_text(encoding="utf-8"))
        return cls(folder, {name: (value, unit) for name, (value, unit) in told["figures"].items()})

    def json(self) -> str:
        """The figures as strict JSON."""
        return json.dumps(self.figures, indent=1) + "\n"

    def tell(self, out: Console) -> None:
        """Print every figure."""
        tell_figures(self.figures, out)
        out.print(f"Model: {self.model}\nReport: {self.page}", markup=False)
        out.print(f"Delete from it: unweave forget {self.folder} --ids FILE", markup=False)


@settings
class ExactJob:
    """Train a model that can forget exactly; stopped and run again, it comes to the same bits.

    Attributes:
        subject: what to train on and measure with; for an S3T, with the pretrained model.
        method: SISA, whose recipe is then the subject's, or S3T.
        by: column whose values group examples: those of one group share a slice, so that the deletion of a person, say,
            hits one.
        source: where the data come from, in a word, for who opens the folder.
        seed: governs the whole run.
    """

    subject: Subject
    method: SISA | S3T
    by: str = ""
    source: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.by and self.by not in self.subject.columns:
            there = ", ".join(self.subject.columns) or "none"
            raise InputError(f"ExactJob.by={self.by!r} is no column of the data. There are: {there}.")

    def plan(self) -> dict[str, Any]:
        """What is to be done, as plain JSON; a run goes on only under the same plan."""
        return {"method": described(self.method), "by": self.by}

    def run(self, out: Path | str, *, command: Sequence[str] = ()) -> ExactlyTrained:
        """Run every stage, or go on with a run that was stopped, to the same bits.

        Args:
            out: run folder; see `RunFolder`.
            command: as the user typed it.
        """
        base = self._base()  # read before the folder is touched: a damaged file leaves no trace
        inputs = self.subject.inputs()
        with RunFolder.open(
            Path(out), settings=self.plan(), inputs=inputs, seed=self.seed, command=command
        ) as run:
            with run.stage("train", "model", "exact-train.json") as stage:
                if stage.todo:
                    self._train(stage, base)
            found = ExactlyTrained.read(run.path)
            with run.stage("report", *REPORTS) as stage:
                if stage.todo:
                    self._report(found, stage, facts_of(run, command))
        return found

    def _base(self) -> Module | None:
        if isinstance(self.method, SISA):
            return None
        recipe: Any = self.subject.recipe
        if getattr(recipe, "base", ""):
            return recipe.initial(seeded(self.seed)).eval()  # type: ignore[no-any-return]
        model = self.subject.given()
        if model is None:
            raise InputError(
                f"S3T adapts a pretrained model, and {self.subject.name} brings none. Give a transformers folder, or "
                "the model; or train by sisa, which needs none."
            )
        return model

    def _train(self, stage: Stage, base: Module | None) -> None:
        subject, began = self.subject.left, perf_counter()
        groups = list(subject.columns[self.by]) if self.by else None
        with recording() as fits:
            ids, keep = ids_of_subject(subject), kept_in(stage.work)
            begin = partial(_trained, self.method, base, subject.train, ids, groups, keep)
            service: Service = single_threaded(begin, stage.rng)
        save_exact(service, stage.paths[0], source=self.source, write=subject.write)
        opened = open_exact(stage.paths[0], start_of(self.method, subject), subject.read)
        figures = {
            **state_figures(opened.service, self.seed),
            **{f"training {n}": v for n, v in quality(opened, subject.train).items()},
            **{f"held-out {n}": v for n, v in quality(opened, subject.heldout).items()},
            "optimiser steps of this start": (sum(f.steps for f in fits), "steps"),
            "time of this start": (perf_counter() - began, "s"),
        }
        write_text(stage.paths[1], json.dumps({"figures": figures}) + "\n")

    def _report(self, found: ExactlyTrained, stage: Stage, run: Mapping[str, Any]) -> None:
        method = self.method
        left, least = (found.figures[n][0] for n in ("requests left, expected", "requests left, at least"))
        lead = [
            f"{method.shards} shards of {method.slices} slices. Deleting an example needs no training until every "
            f"order is dead: after about {round(left)} requests of one example, or {least} that hit all the wrong "
            "slices."
        ]
        told = (
            f"A model that can forget exactly ({type(method).__name__})", f"Training of {self.subject.name}", lead,
            found.figures, dict[str, Any](), limits_of(method.pretrained_on), run,
        )  # fmt: skip
        write_text(stage.paths[0], render_exact(*told))
        write_text(stage.paths[1], markdown_exact(*told))


def ids_of_subject(subject: Subject) -> list[str]:
    """Ids of the training examples as text; positions where they have none."""
    return [str(i) for i in (subject.ids if len(subject.ids) else range(len(subject.train)))]


EMBEDDED = "embedded"
"""The `source` of the digits that are made on the spot."""


def dense(subject: Subject) -> Subject:
    """A subject whose recipe does not prune: a mask is made of data as well, and stages would leave it out."""
    recipe = subject.recipe
    if not is_dataclass(recipe) or isinstance(recipe, type) or getattr(recipe, "prune", None) is None:
        return subject
    lean: Any = replace(recipe, prune=None, recover_epochs=0)
    return replace(subject, name=f"{subject.name}, trained dense", recipe=lean)


def as_recorded(subject: Subject, told: Mapping[str, Any]) -> Subject:
    """A subject whose recipe has the plain settings (epochs, lr ...) that a folder's record says it was trained by."""
    then, recipe = told.get("recipe"), subject.recipe
    if not isinstance(then, dict) or not is_dataclass(recipe) or isinstance(recipe, type):
        return subject
    plain = {
        f.name: then[f.name]
        for f in fields(recipe)
        if type(then.get(f.name)) in (int, float) and type(getattr(recipe, f.name)) in (int, float)
    }
    return replace(subject, recipe=replace(recipe, **plain))


def start_of(method: Any, subject: Subject) -> Any:
    """What a folder is opened with: the recipe of a SISA; an S3T's base is read by the subject."""
    return subject.recipe if method is SISA or isinstance(method, SISA) else None


def opened(folder: Path, kind: str, subject: Subject) -> Service:
    """The service in a folder of this kind, "SISA" or "S3T"."""
    start = start_of(SISA if kind == "SISA" else S3T, subject)
    return open_service(folder, start, subject.read, key=subject.key)


def state_figures(service: Service | None, seed: int) -> dict[str, tuple[float, str]]:
    """How much is left of a service, name -> (value, unit)."""
    assert service is not None
    mean, least = service.requests_left(seeded(seed))
    lengths = service.lengths()
    return {
        "examples": (len(service.slices.places), "examples"),
        "shards that live": (sum(any(row) for row in lengths), f"of {len(lengths)}"),
        "orders that live": (sum(n > 0 for row in lengths for n in row), f"of {sum(map(len, lengths))}"),
        "stages that serve": (sum(map(max, lengths)), f"of {len(lengths) * service.slices.slices}"),
        "stages kept": (len(service.states), "stages"),
        "requests left, expected": (mean, "requests of one example"),
        "requests left, at least": (least, "requests of one example"),
    }


def quality(model: Module, data: Data[Any]) -> dict[str, tuple[float, str]]:
    """Accuracy, where examples have a class; else the mean loss."""
    if able(data.task, Labelled):
        return {"accuracy": (accuracy(model, data), "%")}
    return {"loss": (float(predict(model, data, data.task.losses).double().mean()), "nats")}


def limits_of(pretrained_on: str) -> list[str]:
    """What exactness does not cover, with what the user said of the base."""
    said = (
        f"The base was trained before, on: {pretrained_on}. That is the user's own statement; if any of it can be "
        "asked back, nothing here deletes it."
    )
    return [*([said] if pretrained_on else []), *LIMITS]


def tell_figures(figures: Mapping[str, tuple[float, str]], out: Console) -> None:
    """Print them, one a line."""
    for name, (value, unit) in figures.items():
        out.print(f"  {name:32} {value_text(value):>10} {unit}", markup=False)


def _trained(
    method: SISA | S3T,
    base: Module | None,
    data: Data[Any],
    ids: Sequence[str],
    groups: Any,
    run: Run,
    rng: Generator,
) -> Service:
    if isinstance(method, SISA):
        service = method.begin(data, rng=rng, ids=ids, groups=groups)
    else:
        assert base is not None
        service = method.begin(base, data, rng=rng, ids=ids, groups=groups)
    return service.retrained(data, ids=ids, run=run)[0]
