"""Train a subject's recipe, resumable, and measure what came out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Self

from rich.console import Console

from ..fit import Fit, recording, resumable
from ..io.content import described
from ..io.files import write_text
from ..io.runs import RunFolder, Stage
from ..masks.mask import Mask
from ..masks.scope import kept, share_kept
from ..parallel import single_threaded
from ..report.models import render_trained, value_text
from ..settings import settings
from ..tasks import ability, require_readable
from ..types import Recipe
from .done import Done, facts_of
from .subject import Subject


@dataclass(frozen=True)
class Trained(Done):
    """A finished training.

    Attributes:
        figures: name -> (value, unit).
        layers: matrix weight -> % of it that lives, dense ones included; empty for a dense model.
        losses: mean loss of each step's batch, in order.
        by: what trained it, in words: optimiser, what it wraps, learning rate, steps; one a stretch of training.
    """

    figures: Mapping[str, tuple[float, str]]
    layers: Mapping[str, float]
    losses: Sequence[float]
    by: tuple[str, ...] = ()

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read a finished run."""
        told = json.loads((folder / "train.json").read_text(encoding="utf-8"))
        figures = {name: (value, unit) for name, (value, unit) in told["figures"].items()}
        return cls(folder, figures, told["layers"], told["losses"], tuple(told.get("by", ())))

    def json(self) -> str:
        """The figures as strict JSON."""
        return json.dumps(self.figures, indent=1) + "\n"

    def tell(self, out: Console) -> None:
        """Print every figure."""
        for stretch in self.by:
            out.print(f"trained by {stretch}", markup=False)
        for name, (value, unit) in self.figures.items():
            out.print(f"  {name:20} {value_text(value):>10} {unit}", markup=False)
        out.print(f"Model: {self.model}\nReport: {self.page}", markup=False)


@settings
class TrainJob:
    """Train a model by the subject's recipe; stopped and run again, it comes to the same bits.

    Attributes:
        subject: the recipe, the data to train on, and the data to measure with.
        seed: governs the whole run.
    """

    subject: Subject
    seed: int = 0

    def __post_init__(self) -> None:
        _ = self.recipe

    @property
    def recipe(self) -> Recipe:
        """How it is trained."""
        return self.subject.require_recipe("nothing can be trained")

    def plan(self) -> dict[str, Any]:
        """What is to be done, as plain JSON; a run goes on only under the same plan."""
        return {"recipe": described(self.recipe)}

    def run(self, out: Path | str, *, command: Sequence[str] = ()) -> Trained:
        """Run every stage, or go on with a run that was stopped, to the same bits.

        Args:
            out: run folder; see `RunFolder`.
            command: as the user typed it.
        """
        self.subject.require_network()
        inputs = self.subject.inputs()
        with RunFolder.open(
            Path(out), settings=self.plan(), inputs=inputs, seed=self.seed, command=command
        ) as run:
            with run.stage("train", "model", "train.json") as stage:
                if stage.todo:
                    self._train(stage)
            found = Trained.read(run.path)
            with run.stage("report", "report.html") as stage:
                if stage.todo:
                    page = render_trained(
                        found.figures, found.layers, found.losses, subject=self.subject.name,
                        run=facts_of(run, command, (*self.subject.notes, *(f"Trained by {b}." for b in found.by))),
                    )  # fmt: skip
                    write_text(stage.paths[0], page)
        return found

    def _train(self, stage: Stage) -> None:
        subject, recipe = self.subject, self.recipe
        began = perf_counter()
        with resumable(stage.work), recording() as fits:
            model = single_threaded(lambda rng: recipe.build(subject.left.train, rng=rng), stage.rng).eval()
        require_readable(model, subject.heldout, "the model that the recipe trained")
        name, on_train, unit = ability(model, subject.left.train)
        on_heldout = ability(model, subject.heldout)[1]
        figures = {
            f"training {name}": [on_train, unit],
            f"held-out {name}": [on_heldout, unit],
            "weights that live": [100 * share_kept(model), "%"],
            **_counts(fits),
            "time of this start": [perf_counter() - began, "s"],
        }
        layers = (
            {n: 100 * living / total for n, (living, total) in kept(model).items()} if Mask.of(model) else {}
        )
        subject.write(model, stage.paths[0])
        subject.record((), stage.paths[0])
        losses = [loss for f in fits for loss in f.losses]
        by = [f"{f.by}, {f.steps:,} steps" for f in fits]
        told = {"figures": figures, "layers": layers, "losses": losses, "by": by}
        write_text(stage.paths[1], json.dumps(told) + "\n")


def _counts(fits: Sequence[Fit]) -> dict[str, list[Any]]:
    """Steps and calls; nothing where a loop of the user's own trained, which counts nothing."""
    if not fits:
        return {}
    return {
        "optimiser steps": [sum(f.steps for f in fits), "steps"],
        "calls of the loss": [sum(f.calls for f in fits), "calls"],
    }
