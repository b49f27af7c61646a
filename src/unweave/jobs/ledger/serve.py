"""Serve a ledger's open requests: every model that saw the examples, then the earlier requests again, then evidence."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ...errors import UnweaveError
from ...fit import resumable
from ...io.runs import RunFolder
from ...parallel import single_threaded
from ...progress import progress
from ...settings import Count, Whole, settings
from ...types import Edit, Request
from ...unlearn import Retrain
from ...unlearn.exact.folder import is_exact
from ..forget import ForgetJob, exact
from ..judging import Audited
from ..subject import Subject
from .book import Ledger
from .evidence import remove_evidence, write_evidence
from .exactly import forget_exactly, write_card
from .parents import Parent, parent_of, takes_parent, unlike, with_parent
from .plan import Plan, opened, plan
from .relapse import UNLAPSED, look_again
from .served import Served, told
from .state import Version, now_utc
from .utility import lost

GOOD = ("forgotten",)
NO_RECIPE = "there is no recipe by which it could be made anew"


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
        purge: remove the files of earlier versions that lie in the ledger's folder and hold what was deleted, and
            evidence whose time is over.
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
        if not due.requests and not due.late:
            return replace(
                Served(ledger.folder, (), (), (), "", False, due.waits, ()), still=self._purged(True)
            )
        names, state = [a.name for a in due.requests], ledger.state()
        if not state.serving or list(state.batch) != names:
            ledger.log.append("serving", {"requests": names})
        begun = max(e.number for e in ledger.log.entries() if e.kind == "serving")
        folder = ledger.folder / "runs" / f"{begun:06}"
        folder.mkdir(parents=True, exist_ok=True)
        try:
            batch = _Batch(self, due, names, folder, command)
            with progress(f"{folder}", len(due.steps)) as bar:
                for version, step in due.steps:
                    if batch.failed:
                        break
                    getattr(batch, f"_{step.replace(' ', '_')}")(version)
                    bar.advance()
        except UnweaveError as error:
            reason = f"Serving stopped: {type(error).__name__}."  # its message may name what was asked
            ledger.log.append("failed", {"requests": names, "models": [], "relapse": [], "reason": reason})
            raise
        found = batch.close()
        return replace(found, still=self._purged(found.done))

    def _purged(self, done: bool) -> tuple[str, ...]:
        """Remove what is to be removed; files that still hold what was deleted."""
        if self.purge and done:
            remove_evidence(self.ledger, now_utc())
            for version in self.ledger.models.purgeable():
                place = self.ledger.models.place(version)
                shutil.rmtree(place) if place.is_dir() else place.unlink()
        return tuple(str(self.ledger.models.place(v)) for v in self.ledger.models.superseded())


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

    def _withdraw(self, version: Version, reason: str = NO_RECIPE) -> None:
        why = f"withdrawn: {reason}"
        self.entries.append(("withdrawn", {"name": version.name, "digest": version.digest, "reason": why}))
        self._tell(version, "withdraw", why=why)

    def _make_anew(self, version: Version) -> None:
        whole = self._world(version, [])
        gone = self.ledger.positions(whole, [*self.earlier, *self.names])
        subject, above, recipe = whole.without(gone), self._parent(version), whole.recipe
        if recipe is None:
            self._withdraw(version)
            return
        why, level = "made anew by its own recipe, without the examples", "E4"
        if above is not None and takes_parent(recipe, above):
            if above.place is None:
                self._withdraw(version, f"{above.name}, which it is made of, was withdrawn")
                return
            recipe, level = with_parent(recipe, above.place), above.level
            why += f", from the version of {above.name} in use"
        elif above is not None:
            why += f"; the recipe takes no parent, so it must not read the former {above.name} by itself"
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
                    write_card(version, stage.paths[0], level, why, subject.kind.audited)
        self._made(version, at / "model", "made anew", level, why, "exact" if level == "E4" else "")

    def _edit(self, version: Version) -> None:
        if is_exact(self.ledger.models.place(version)):
            self._edit_exactly(version)
            return
        subject, above = self._world(version, self.earlier), self._parent(version)
        if above is not None and takes_parent(
            subject.recipe, above
        ):  # its recipe would begin at what is withdrawn
            self._withdraw(version, f"{above.name}, which it is made of, was withdrawn")
            return
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
        less = self._lost(version, found.model) if sure and name != "retrain" and not self.job.edits else []
        if less:  # too short a training to be handed out
            self._from_scratch(version, f"{name}: {less[0]}")
            return
        if sure:
            self._made(version, found.model, name, "E4", f"{name}, exact", audit.verdict.outcome)
            return
        lapses = list[str]()
        if audit.verdict.outcome in GOOD:
            again = look_again(
                self.job, self._world(version, []), request, subject.read(found.model), self.earlier, self.names
            )  # fmt: skip
            lapses = [n for r in again if r["outcome"] not in UNLAPSED for n in r.pop("names")]
            self.relapse += [{k: v for k, v in r.items() if k != "names"} for r in again]
        if audit.verdict.outcome in GOOD and not lapses:
            self._made(
                version, found.model, name, "E2", f"{name}: {audit.verdict.outcome}", audit.verdict.outcome
            )
            return
        why = f"{name}: {audit.verdict.outcome}" if not lapses else f"{name}: {', '.join(lapses)} came back"
        if subject.recipe is not None:
            self._from_scratch(version, why)
            return
        next_step = f"Next: {subject.kind.recipe_by}, so that it can be trained anew."
        self.failed = f"{version.name} was not released: {why}. {next_step}"
        told = self._described(version, found.model, name, version.digest, released=False, why_not=why)
        self.entries.append(("model", told))
        self._tell(version, "edit", new=told["digest"], method=name, outcome=audit.verdict.outcome, why=why)

    def _edit_exactly(self, version: Version) -> None:
        """Of a model that can forget exactly: its stages are switched off or trained anew, and the bits compared."""
        found = forget_exactly(
            self.ledger, self._world(version, []),
            [r for r in (*self.earlier, *self.names) if r not in version.without], self.folder / version.name,
            seed=self.job.seed, command=self.command,
        )  # fmt: skip
        why = " ".join(found.lead)
        if found.identical is False:
            self.failed = f"{version.name} was not released: {why}"
            self._tell(version, "edit", method="forget exactly", outcome="not the same bits", why=why)
            return
        self._made(version, found.model, "forget exactly", "E4", why, "exact")

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
        chosen = subject.kind.choose(request, subject.recipe, given)
        if (
            subject.recipe is not None
            and not exact(chosen.edit, given)
            and self._undecidable(subject, request)
        ):
            return "retrain", Retrain(recipe=subject.recipe)
        return chosen.name, chosen.edit

    def _undecidable(self, subject: Subject, request: Request[Any]) -> bool:
        """Whether no audit with these references could pass an approximate edit, so that retraining is the cheaper."""
        return bool(subject.kind.foreseen(request, self.job.oracles, self.job.holders + 1, 1))

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
        job, alone = self.job, sure or subject.recipe is None  # nothing to train, or to be judged by
        return ForgetJob(
            subject=subject, positions=positions, edits={name: edit}, seed=job.seed, jobs=job.jobs, cache=job.cache,
            oracles=0 if alone else job.oracles, holders=0 if alone else job.holders, quick=job.quick,
        ).run(self.folder / (folder or version.name), command=self.command)  # fmt: skip

    # what the steps share

    def _world(self, version: Version, without: Sequence[str]) -> Subject:
        subject = opened(version, self.ledger, self.job.subjects or {})
        if not without:
            return subject
        positions = self.ledger.positions(subject, without)
        return replace(subject.without(positions), kept_out=len(positions))

    def _parent(self, version: Version) -> Parent | None:
        return parent_of(self.ledger, version, self.models, self.entries)

    def _made(self, version: Version, place: Path, method: str, level: str, why: str, outcome: str) -> None:
        if method in ("made anew", "retrain") and (why_not := self._unlike(version, place)):
            self.failed = f"{version.name} was not released: {why_not}."
            self._tell(version, "edit", method=method, why=why_not)
            return
        if not self.ledger.state().traceable(version) and level != "E4":
            level = "E1"
        above = self._parent(version)
        parent = above.digest if above else version.digest if level < "E4" else ""
        told = self._described(version, place, method, parent)
        self.entries.append(("model", told))
        step = "make anew" if method == "made anew" else "edit"
        self._tell(version, step, new=told["digest"], method=method, level=level, outcome=outcome, why=why)
        self.models[-1]["lost"] = [] if is_exact(place) else self._lost(version, place)

    def _lost(self, version: Version, place: Path) -> list[str]:
        left = self._world(version, [*self.earlier, *self.names])
        return lost(left, left.read(self.ledger.models.place(version)), left.read(place))

    def _unlike(self, version: Version, place: Path) -> str:
        subject = self._world(version, [])
        return unlike(subject.read(self.ledger.models.place(version)), subject.read(place))

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
