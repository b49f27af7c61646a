"""Serve a ledger's open requests: every model that saw the examples, then the earlier requests again, then evidence."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ...audit import Auditor
from ...errors import UnweaveError
from ...fit import resumable
from ...io.runs import RunFolder
from ...parallel import build_models, single_threaded
from ...progress import progress
from ...random import seeded
from ...settings import Count, Whole, settings
from ...types import Edit, Request
from ...unlearn import Retrain
from ...unlearn.suits import SMALL
from ..choice import choose_for
from ..forget import ForgetJob, exact
from ..judging import Audited
from ..subject import Subject
from .book import Ledger
from .evidence import write_evidence
from .plan import Level, Plan, opened, plan
from .served import Served, told
from .state import Version

GOOD = ("forgotten",)


@settings
class ServeJob:
    """Serve what is open in a ledger, with all that was deleted before kept out.

    The models that were made of no other are edited; what was made of these is made anew by its own recipe, which finds
    the new version of what it is made of in its attribute `parent`, if it has one. An
    approximate edit must come out as forgotten, and so must every earlier request, judged again; where one does not,
    the model is trained from scratch. What was begun and stopped goes on to the same bits.

    Attributes:
        ledger: with the requests.
        subjects: name of a model -> its data and recipe, where the ledger does not know how to open it.
        edits: name -> the method to serve by; chosen by the request unless given.
        oracles: models to retrain without the examples, to judge an approximate edit by.
        holders: models to retrain with them.
        at_once: do not wait for the batch window.
        quick: spend less on the figures; the verdict stays the same.
        purge: remove the files of earlier versions that lie in the ledger's folder and hold what was deleted.
        seed: of every training; the same for each batch, so that the order of requests changes no bit of an exact one.
        jobs: processes that train at once; all cores unless given.
        cache: folder of trained models; UNWEAVE_CACHE or ~/.cache/unweave unless given.
    """

    ledger: Ledger
    subjects: Mapping[str, Subject] | None = None
    edits: Mapping[str, Edit[Any]] | None = None
    oracles: Whole = 8
    holders: Whole = 8
    at_once: bool = False
    quick: bool = False
    purge: bool = False
    seed: int = 0
    jobs: Count | None = None
    cache: Path | str | None = None

    def plan(self) -> Plan:
        """What would be done; nothing is changed."""
        return plan(self.ledger, subjects=self.subjects, at_once=self.at_once)

    def run(self, *, command: Sequence[str] = ()) -> Served:
        """Serve.

        Raises:
            InputError: if a model cannot be opened, or no method can serve the requests; the log says so, too.
        """
        ledger, due = self.ledger, self.plan()
        write_evidence(ledger)  # what a crash left out
        ledger.models.settle()
        if not due.requests:
            return Served(ledger.folder, (), (), (), "", False, due.waits, ())
        names = [a.name for a in due.requests]
        if not ledger.state().batch:
            ledger.log.append("serving", {"requests": names})
        begun = max(e.number for e in ledger.log.entries() if e.kind == "serving")
        folder = ledger.folder / "runs" / f"{begun:06}"
        folder.mkdir(parents=True, exist_ok=True)
        try:
            batch = _Batch(self, due, names, folder, command)
            with progress(f"{folder}", len(due.steps)) as bar:
                for version, step in due.steps:
                    getattr(batch, f"_{step.replace(' ', '_')}")(version)
                    bar.advance()
        except UnweaveError as error:
            reason = f"Serving stopped: {type(error).__name__}."  # its message may name what was asked
            ledger.log.append("failed", {"requests": names, "models": [], "relapse": [], "reason": reason})
            raise
        found = batch.close()
        if self.purge and found.done:
            _purge(ledger)
            found = replace(
                found, still=tuple(str(ledger.models.place(v)) for v in ledger.models.superseded())
            )
        return found


class _Batch:
    """The requests that are served together, model by model."""

    def __init__(
        self, job: ServeJob, due: Plan, names: list[str], folder: Path, command: Sequence[str]
    ) -> None:
        self.job, self.due, self.names, self.folder, self.command = job, due, names, folder, command
        self.ledger = job.ledger
        self.earlier = self.ledger.state().served
        self.models: list[dict[str, Any]] = []
        self.relapse: list[dict[str, Any]] = []
        self.entries: list[tuple[str, dict[str, Any]]] = []
        self.failed = ""

    def close(self) -> Served:
        """Say in the log what was done, all or nothing, and write the evidence."""
        body: dict[str, Any] = {"requests": self.names, "models": self.models, "relapse": self.relapse}
        if not self.failed:
            body["level"] = min((m["level"] for m in self.models if m["level"]), default="E0")
        with self.ledger.log.adding() as add:
            for kind, entry in self.entries:
                add(kind, entry)
            add("failed", {**body, "reason": self.failed}) if self.failed else add("served", body)
        if not self.failed:
            write_evidence(self.ledger)
        self.ledger.models.settle()
        return told(Served, self.ledger, {**body, "reason": self.failed}, not self.failed)

    # the steps of a plan

    def _leave(self, version: Version) -> None:
        self._tell(version, "leave", why="never saw any of the examples")

    def _withdraw(self, version: Version) -> None:
        why = "withdrawn: there is no recipe by which it could be made anew"
        self.entries.append(("withdrawn", {"name": version.name, "digest": version.digest, "reason": why}))
        self._tell(version, "withdraw", why=why)

    def _make_anew(self, version: Version) -> None:
        whole = self._world(version, [])
        gone = self.ledger.positions(whole, [*self.earlier, *self.names])
        subject = whole.without(gone)
        recipe, above = self._from_new_parent(version, subject.recipe)
        if recipe is None:
            self._withdraw(version)
            return
        at, inputs = self.folder / version.name, {k: v for k, v in subject.inputs().items() if k != "model"}
        with RunFolder.open(
            at, settings={"make": "anew"}, inputs=inputs, seed=self.job.seed, command=self.command
        ) as run:
            with run.stage("make anew", "model") as stage:
                if stage.todo:
                    with resumable(stage.work):
                        model = single_threaded(lambda rng: recipe.build(subject.train, rng=rng), stage.rng)
                    subject.write(model, stage.paths[0])
                    whole.record(gone, stage.paths[0])
        level: Level = "E4" if above is None else above["level"]
        self._made(
            version, at / "model", "made anew", level, "made anew by its own recipe, without the examples", ""
        )

    def _edit(self, version: Version) -> None:
        subject = self._world(version, self.earlier)
        positions = self.ledger.positions(subject, self.names)
        if not positions:
            why = "saw the examples, but they are not in its data any more"
            if subject.recipe is None:
                self._withdraw(version)
            else:
                self._from_scratch(version, why)
            return
        request = Request.of(subject.train, subject.heldout, torch.tensor(positions))
        given = subject.given()
        assert given is not None
        name, edit = self._method(subject, request, given)
        sure = exact(edit, given)
        found = self._forget(version, subject, positions, name, edit, sure)
        audit = found.audits[0]
        if sure:
            self._made(version, found.model, name, "E4", f"{name}, exact", audit.verdict.outcome)
            return
        lapses = []
        if audit.verdict.outcome in GOOD:
            lapses = self._look_again(version, subject, request, found.model)
        if audit.verdict.outcome in GOOD and not lapses:
            self._made(
                version, found.model, name, "E2", f"{name}: {audit.verdict.outcome}", audit.verdict.outcome
            )
            return
        why = f"{name}: {audit.verdict.outcome}" if not lapses else f"{name}: {', '.join(lapses)} came back"
        if subject.recipe is not None:
            self._from_scratch(version, why)
            return
        self.failed = (
            f"{version.name} was not released: {why}. Define a recipe, so that it can be trained anew."
        )
        told = self._described(version, found.model, name, version.digest, released=False, why_not=why)
        self.entries.append(("model", told))
        self._tell(version, "edit", new=told["digest"], method=name, outcome=audit.verdict.outcome, why=why)

    def _from_scratch(self, version: Version, why: str) -> None:
        subject = self._world(version, self.earlier)
        positions = self.ledger.positions(subject, self.names)
        assert subject.recipe is not None
        if not positions:
            self._make_anew(version)
            return
        edit = Retrain(recipe=subject.recipe)
        found = self._forget(
            version, subject, positions, "retrain", edit, True, folder=f"{version.name}-retrained"
        )
        outcome = found.audits[0].verdict.outcome
        self._made(version, found.model, "retrain", "E4", f"{why}; so it was trained from scratch", outcome)

    def _method(self, subject: Subject, request: Request[Any], given: Any) -> tuple[str, Edit[Any]]:
        if self.due.retrain and subject.recipe is not None:
            return "retrain", Retrain(recipe=subject.recipe)
        if self.job.edits:
            return next(iter(self.job.edits.items()))
        chosen = choose_for(request, subject.recipe, given)
        return chosen.name, chosen.edit

    def _forget(
        self,
        version: Version,
        subject: Subject,
        positions: list[int],
        name: str,
        edit: Edit[Any],
        sure: bool,
        folder: str = "",
    ) -> Audited:
        job = self.job
        return ForgetJob(
            subject=subject, positions=positions, edits={name: edit}, seed=job.seed, jobs=job.jobs, cache=job.cache,
            oracles=0 if sure else job.oracles, holders=0 if sure else job.holders, quick=job.quick,
        ).run(self.folder / (folder or version.name), command=self.command)  # fmt: skip

    def _look_again(
        self, version: Version, subject: Subject, request: Request[Any], model: Path
    ) -> list[str]:
        """Judge every earlier request again, those of few examples together; names of those that came back."""
        job, whole = self.job, self._world(version, [])
        edited = subject.read(model)
        groups = self._groups(whole)
        recipe, lapses = subject.recipe, list[str]()
        if recipe is None or not (job.oracles and job.holders):
            for r in self.earlier:
                self._again(r, "not judged", 0, "there are no reference models")
            return lapses
        build = partial(
            build_models, recipe, jobs=job.jobs, cache=Path(job.cache).expanduser() if job.cache else None
        )
        oracles = build(request.retain, [1_000_000 + 1000 * job.seed + i for i in range(job.oracles)])
        holders = build(whole.train, [2_000_000 + 1000 * job.seed + i for i in range(job.holders)])
        gone = self.ledger.positions(whole, [*self.earlier, *self.names])
        for names, positions in groups.items():
            label = ", ".join(names)
            if not positions:
                self._again(label, "not judged", 0, "its examples are not in the data any more")
                continue
            chosen = torch.tensor(positions)
            rest = whole.without(gone).train
            again = Request(whole.train.subset(chosen), rest, whole.heldout)
            auditor = Auditor.of(
                again,
                original=holders[0],
                holders=holders[1:],
                oracles=oracles,
                rng=seeded(job.seed),
                quick=job.quick,
            )
            verdict = auditor.decide(edited).verdict
            self._again(label, verdict.outcome, len(positions), verdict.why)
            if verdict.outcome not in (*GOOD, "inconclusive"):
                lapses += names
        return lapses

    def _groups(self, whole: Subject) -> dict[tuple[str, ...], list[int]]:
        """Earlier requests that are judged together -> where their examples are; few examples are pooled."""
        each = {r: self.ledger.positions(whole, [r]) for r in self.earlier}
        small = tuple(r for r, p in each.items() if 0 < len(p) < SMALL)
        groups: dict[tuple[str, ...], list[int]] = {(r,): p for r, p in each.items() if r not in small}
        if small:
            groups[small] = sorted(i for r in small for i in each[r])
        return groups

    def _new_parent(self, version: Version) -> dict[str, Any] | None:
        """What this batch made of the model that this one was made of, if it is another."""
        above = self.ledger.state().version(version.parent)
        if above is None or above.name == version.name:
            return None
        return next((m for m in self.models if m["name"] == above.name and m["new"]), None)

    def _from_new_parent(self, version: Version, recipe: Any) -> tuple[Any, dict[str, Any] | None]:
        """The recipe, with its parent's new version as `parent` where it has one; and what became of that parent."""
        above = self._new_parent(version)
        if above is None or not hasattr(recipe, "parent"):
            return recipe, None
        place = next(e["place"] for kind, e in self.entries if kind == "model" and e["name"] == above["name"])
        parent = self.ledger.folder / place
        if is_dataclass(recipe):
            return replace(recipe, parent=parent), above  # type: ignore[type-var]
        recipe = copy(recipe)
        recipe.parent = parent
        return recipe, above

    # what the steps share

    def _world(self, version: Version, without: Sequence[str]) -> Subject:
        subject = opened(version, self.ledger, self.job.subjects or {})
        return subject.without(self.ledger.positions(subject, without)) if without else subject

    def _made(self, version: Version, place: Path, method: str, level: Level, why: str, outcome: str) -> None:
        if not self.ledger.state().traceable(version) and level != "E4":
            level = "E1"
        above = self._new_parent(version)
        parent = above["new"] if above else version.digest if level < "E4" else ""
        told = self._described(version, place, method, parent)
        self.entries.append(("model", told))
        step = "make anew" if method == "made anew" else "edit"
        self._tell(version, step, new=told["digest"], method=method, level=level, outcome=outcome, why=why)

    def _described(
        self,
        version: Version,
        place: Path,
        how: str,
        parent: str,
        *,
        released: bool = True,
        why_not: str = "",
    ) -> dict[str, Any]:
        subject = replace(opened(version, self.ledger, self.job.subjects or {}), model=place)
        return self.ledger.models.described(
            version.name, subject, how=how, parent=parent, recipients=version.recipients, source=version.source,
            without=[*self.earlier, *self.names], released=released, why_not=why_not,
        )  # fmt: skip

    def _tell(
        self,
        version: Version,
        step: str,
        *,
        why: str,
        new: str = "",
        method: str = "",
        level: str = "",
        outcome: str = "",
    ) -> None:
        self.models.append(
            {
                "name": version.name, "step": step, "old": version.digest, "new": new, "method": method,
                "level": level, "outcome": outcome, "why": why, "recipients": list(version.recipients),
            }
        )  # fmt: skip

    def _again(self, request: str, outcome: str, examples: int, why: str) -> None:
        self.relapse.append({"request": request, "outcome": outcome, "examples": examples, "why": why})


def _purge(ledger: Ledger) -> None:
    inside = ledger.folder.resolve()
    for version in ledger.models.superseded():
        place = ledger.models.place(version)
        if place.resolve().is_relative_to(inside):
            shutil.rmtree(place) if place.is_dir() else place.unlink()
