"""The main job, stage by stage: edit, train what to compare with, audit, report."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import field
from functools import cached_property, partial
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

from torch import Generator
from torch.nn import Module

from ..errors import InputError
from ..fit import resumable
from ..io.content import described
from ..io.files import write_text
from ..io.memory import give_back
from ..io.runs import Stage
from ..masks.mask import Mask
from ..parallel import single_threaded
from ..progress import progress
from ..settings import Count, settings
from ..types import Edit, Request
from ..unlearn import Retrain, ShortRetrain
from .choice import Choice
from .estimate import estimate
from .judging import Audited, Judging, slug


class UnsuitedWarning(UserWarning):
    """A method was named that does not suit the request."""


@settings
class ForgetJob(Judging):
    """Take data out of a trained model, and audit the result.

    `run` trains the model first if the subject brings none, edits it, trains models to compare with, audits and
    reports.

    Attributes:
        edits: name -> edit; the first is handed out, the others are compared with it. Without any, `choice` is made
            from the request.
        compare: further edits, as in `edits`, beside a choice.
        several: edited models of each method, made from as many models that hold the data, whose mean is judged; what a
            request of a few examples needs. The one made from the model itself is handed out.
    """

    edits: Mapping[str, Edit[Any]] | None = None
    compare: Mapping[str, Edit[Any]] = field(default_factory=dict)
    several: Count = 1

    def __post_init__(self) -> None:
        if self.edits is not None and not self.edits:
            raise InputError(
                "ForgetJob.edits is empty. Name at least one method, as {'salun': SalUn()}, or leave edits out to "
                "have one chosen."
            )
        if self.edits is not None and self.compare:
            raise InputError(
                "ForgetJob.compare goes with a method that is chosen. Put all of them into edits."
            )
        if self.several > 1 and self.several > self.holders:
            raise InputError(
                f"ForgetJob.several is {self.several}: each edit but the first is made from a model that holds the "
                f"data, of which holders = {self.holders} are trained. Give at least {self.several + 3} (--holders "
                f"{self.several + 3})."
            )
        super().__post_init__()

    @cached_property
    def choice(self) -> Choice | None:
        """The method that the request is served by, and why; None where edits are given.

        Raises:
            InputError: if nothing can serve it.
        """
        if self.edits is not None:
            return None
        return self.subject.kind.choose(self.request, self.subject.recipe, self.subject.given())

    @property
    def work(self) -> dict[str, Edit[Any]]:
        """Name -> edit, whoever named it."""
        if self.choice is None:
            return dict(self.edits or {})
        return {
            self.choice.name: self.choice.edit,
            **{n: e for n, e in self.compare.items() if n != self.choice.name},
        }

    @property
    def doubts(self) -> tuple[str, ...]:
        """Why the method whose model is handed out does not suit the request; empty if it does."""
        name, edit = next(iter(self.work.items()))
        return tuple(filter(None, (self.subject.kind.doubt(name, edit, self.request), self.foreseen)))

    def plan(self) -> dict[str, Any]:
        """What is to be done, as plain JSON."""
        edits = {name: described(edit) for name, edit in self.work.items()}
        chosen = {} if self.choice is None else {"chosen": str(self.choice)}
        several = {"edits of each": self.several} if self.several > 1 else {}
        return {"methods": list(self.work), "edits": edits, **chosen, **several, **super().plan()}

    def run(self, out: Path | str, *, command: Sequence[str] = ()) -> Audited:
        """Run every stage, or go on with a run that was stopped, to the same bits.

        Warns:
            UnsuitedWarning: if the method does not suit the request, with the reason, before anything is trained.
        """
        for found in self.doubts:
            warnings.warn(found, UnsuitedWarning, stacklevel=2)
        subject = self.subject
        given = subject.given()  # read before the folder is touched: a damaged file leaves no trace
        steps = 3 + len(self.work) + (given is None)
        with self.opened(out, command) as run, progress(f"{out}", steps) as bar:
            if (settled := self.settled(run, bar, list(self.work), command)) is not None:
                return settled
            if given is None:
                original = subject.trained(run, subject.require_recipe("no model can be trained"))
                bar.advance()
            else:
                original = given
            subject.kind.require_answers(original, self.request, "the original model")  # before any training
            edited: dict[str, list[Module]] = {}
            costs: dict[str, dict[str, float]] = {}
            for i, (name, edit) in enumerate(self.work.items()):
                folder = "model" if i == 0 else f"compared/{slug(name)}"
                with run.stage(f"edit {name}", folder, f"costs/{slug(name)}.json") as stage:
                    if stage.todo:
                        self._edit(edit, original, stage)
                edited[name] = [subject.read(stage.paths[0])]
                costs[name] = json.loads(stage.paths[1].read_text(encoding="utf-8"))
                bar.advance()
            references = self.references(run)
            for name, edit in self.work.items():
                for i in range(1, self.several):
                    with run.stage(f"edit {name} {i}", f"several/{slug(name)}-{i}") as stage:
                        if stage.todo:
                            self._write(edit, references.holders[i - 1], stage)
                    edited[name].append(subject.read(stage.paths[0]))
            return self.judged(run, bar, original, edited, costs, command, references)

    def exact(self, name: str, original: Module) -> bool:
        """Whether the method of this name reads nothing that the original learned."""
        return exact(self.work[name], original)

    def estimate(self) -> dict[str, float]:
        """Seconds that `run` would take, by stage."""
        return estimate(self, {name: partial(_apply, edit) for name, edit in self.work.items()})

    def _edit(self, edit: Edit[Any], original: Module, stage: Stage) -> None:
        began, began_cpu = perf_counter(), process_time()
        resumed = any(stage.work.glob("*"))
        self._write(edit, original, stage)
        times = {"seconds": perf_counter() - began, "cpu_seconds": process_time() - began_cpu}
        write_text(stage.paths[1], json.dumps({"resumed": resumed, **times}) + "\n")

    def _write(self, edit: Edit[Any], model: Module, stage: Stage) -> None:
        with resumable(stage.work):
            edited = single_threaded(partial(_apply, edit, model, self.request), stage.rng)
        give_back()
        self.subject.write(edited, stage.paths[0])
        self.subject.record(self.selected[0], stage.paths[0])


def exact(edit: Edit[Any], model: Module) -> bool:
    """Whether an edit reads nothing that the model learned: of a pruned one a short retraining takes weight counts."""
    return isinstance(edit, Retrain) or (isinstance(edit, ShortRetrain) and not Mask.of(model))


def _apply(edit: Edit[Any], model: Module, request: Request[Any], rng: Generator) -> Module:
    return edit.apply(model, request, rng=rng)
