"""What forgetting and auditing share: the models to compare with, the audit, the report."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from rich.console import Console
from torch.nn import Module

from ..audit.rates import published
from ..audit.result import Audit, Rows
from ..errors import InputError
from ..io.content import described
from ..io.files import write_text
from ..io.model_cache import Lineage
from ..io.runs import RunFolder
from ..parallel import build_models, training_cost
from ..progress import Bar, progress
from ..random import seeded
from ..report import tables
from ..report.audits import from_json, render_html, render_markdown, to_json
from ..report.card import audit_card, library_of
from ..settings import Whole, settings
from . import holding
from .advice import advised, by_construction
from .deletion import Deletion
from .done import Done
from .kinds import Case
from .subject import hashable

FILES = {"audit": "audit.json", "html": "report.html", "markdown": "report.md"}
RETRAINING = "retraining.json"
"""What one retraining costs; not among the costs of the edits, of which one may be called "retrain"."""


@dataclass(frozen=True)
class Audited(Done):
    """A finished deletion or audit.

    Attributes:
        audits: of the model that is handed out first, then of those it is compared with.
    """

    audits: tuple[Audit, ...]

    @property
    def passed(self) -> bool:
        """Whether the model that is handed out forgot."""
        return self.audits[0].passed

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read a finished run."""
        return cls(folder, from_json((folder / FILES["audit"]).read_text(encoding="utf-8")))

    def json(self) -> str:
        """The audits as strict JSON."""
        return (self.folder / FILES["audit"]).read_text(encoding="utf-8")

    def tell(self, out: Console) -> None:
        """Print the verdict, why it can or cannot be trusted, and every figure."""
        text = (self.folder / FILES["markdown"]).read_text(encoding="utf-8")
        out.print(text.partition("## Measurements")[0].rstrip() + "\n", markup=False)
        out.print(tables.measurements(self.audits[0].method, self.audits[0].measurements), soft_wrap=False)
        model = f"\nModel: {self.model}" if self.model.exists() else ""
        out.print(f"{model}\nReport: {self.page}", markup=False)


@dataclass(frozen=True, kw_only=True)
class References:
    """Models to compare with.

    Attributes:
        oracles: retrained without the data.
        holders: retrained with it.
        cost: of one retraining: "seconds" and "cpu_seconds"; empty where it is not known.
    """

    oracles: Sequence[Module]
    holders: Sequence[Module]
    cost: Mapping[str, float]


@settings
class Judging(Deletion, ABC):
    """A deletion, and the audit that follows it.

    Attributes:
        oracles: models to retrain without the data, to compare with; 0 gives no verdict.
        holders: models to retrain with the data, to know how much models differ by chance.
        given_oracles: further models that were trained without the data elsewhere, or their weights.
        given_holders: further models that were trained with the data elsewhere.
        quick: spend less on the figures that train something (relearning) or draw samples; the verdict stays the same.
        purge: after the verdict, whatever it is, remove what this run and the cache keep of models that were trained
            on the deleted data. Files of your own are listed, never removed.
    """

    oracles: Whole = 8
    holders: Whole = 8
    given_oracles: Sequence[Path | str | Module] = ()
    given_holders: Sequence[Path | str | Module] = ()
    quick: bool = False
    purge: bool = False

    @property
    def several(self) -> int:
        """How many edited models of each method are judged by their mean."""
        return 1

    def __post_init__(self) -> None:
        super().__post_init__()
        subject = self.subject
        if subject.recipe is None and (self.oracles or self.holders or subject.model is None):
            raise InputError(
                f"{subject.name} has no recipe, so nothing can be trained: {subject.kind.recipe_by}, or give the model "
                "with oracles=0 and holders=0 (--oracles 0 --holders 0); the report then says what cannot be concluded."
            )
        _ = self.request  # refuse a bad request before anything is written

    @property
    def notes(self) -> tuple[str, ...]:
        """What is to be told of the data and of the models that were read."""
        return self.subject.told

    @property
    def foreseen(self) -> str:
        """What the references asked for cannot decide, in words; "" where they can, or none were asked for."""
        oracles, holders = self.oracles + len(self.given_oracles), self.holders + len(self.given_holders)
        if not (oracles or holders):
            return ""
        return self.subject.kind.foreseen(self.request, oracles, holders + 1, self.several)

    def exact(self, name: str, original: Module) -> bool:
        """Whether the method of this name reads nothing that the original learned."""
        return False

    @abstractmethod
    def run(self, out: Path | str, *, command: Sequence[str] = ()) -> Audited:
        """Run every stage, or go on with a run that was stopped, to the same bits.

        Args:
            out: run folder; see `RunFolder`.
            command: as the user typed it.
        """

    @abstractmethod
    def estimate(self) -> dict[str, float]:
        """Seconds that `run` would take, by stage; nothing is written."""

    @property
    def oracle_seeds(self) -> list[int]:
        """Seeds of the retrained models."""
        return [1_000_000 + 1000 * self.seed + i for i in range(self.oracles)]

    @property
    def holder_seeds(self) -> list[int]:
        """Seeds of the models that hold the data."""
        return [2_000_000 + 1000 * self.seed + i for i in range(self.holders)]

    def plan(self) -> dict[str, Any]:
        """What is to be done, as plain JSON; a run goes on only under the same plan."""
        return {
            "recipe": described(self.subject.recipe), "request": self.selected[1], "positions": self.hashed,
            "oracles": self.oracles, "holders": self.holders, "quick": self.quick,
        }  # fmt: skip

    def inputs(self) -> dict[str, Path | str]:
        """Name -> file, or hash, of all that is read."""
        return {**self.subject.inputs(), **{name: hashable(model) for name, model in self._outside.items()}}

    @property
    def _outside(self) -> dict[str, Path | str | Module]:
        """Models to compare with that were made elsewhere, by name."""
        kinds = {"oracle": self.given_oracles, "holder": self.given_holders}
        return {f"{kind} {i}": m for kind, given in kinds.items() for i, m in enumerate(given, 1)}

    def opened(self, out: Path | str, command: Sequence[str]) -> AbstractContextManager[RunFolder]:
        """The run folder, begun or gone on with."""
        return RunFolder.open(
            Path(out), settings=self.plan(), inputs=self.inputs(), seed=self.seed, command=command
        )

    def judged(
        self,
        run: RunFolder,
        bar: Bar,
        original: Module,
        edited: Mapping[str, Module | Sequence[Module]],
        costs: Mapping[str, Mapping[str, float]],
        command: Sequence[str],
        references: References | None = None,
    ) -> Audited:
        """The last three stages: train what to compare with (unless that is there), audit, report."""
        references = references or self.references(run)
        bar.advance()
        with run.stage("audit", FILES["audit"]) as stage:
            if stage.todo:
                audits = self._audits(original, edited, costs, references)
                write_text(stage.paths[0], to_json(audits))
        bar.advance()
        return self.concluded(run, bar, costs, references.cost, command)

    def concluded(
        self,
        run: RunFolder,
        bar: Bar,
        costs: Mapping[str, Mapping[str, float]],
        retrain: Mapping[str, float],
        command: Sequence[str],
    ) -> Audited:
        """What follows the verdict: say what still holds the data, remove it if asked, report."""
        found = from_json((run.path / FILES["audit"]).read_text(encoding="utf-8"))
        if self.purge and run.finished("holders"):
            held = holding.from_json((run.path / holding.HOLDERS).read_text(encoding="utf-8"))
            if any(h.ours and not h.removed for h in held):
                run.undo("holders", "report")
        with run.stage("holders", holding.HOLDERS) as stage:
            if stage.todo:
                held = holding.still_held(
                    run, found, self.subject.model, self.models, self._lineage(run), self.called
                )  # fmt: skip
                held = holding.purged(run, held, self.models) if self.purge else held
                write_text(stage.paths[0], holding.to_json(held))
            held = holding.from_json(stage.paths[0].read_text(encoding="utf-8"))
        card = ["model/README.md"] if (run.path / "model").is_dir() else []
        with run.stage("report", FILES["html"], FILES["markdown"], *card) as stage:
            if stage.todo:
                for path in stage.paths[2:]:
                    write_text(path, self._card(found[0], path.parent))
                told = self._told(run, costs, retrain, command)
                more = [holding.section(held)]
                write_text(stage.paths[0], render_html(found, told, published(found[0].kind), more=more))
                write_text(stage.paths[1], render_markdown(found, told, published(found[0].kind), more=more))
        bar.advance()
        return Audited(run.path, found)

    def settled(
        self, run: RunFolder, bar: Bar, names: Sequence[str], command: Sequence[str]
    ) -> Audited | None:
        """What a run whose audit had ended came to, without its models, which may have been removed since."""
        if not run.finished("audit"):
            return None
        found = {n: run.path / "costs" / f"{slug(n)}.json" for n in names}
        found[""] = run.path / RETRAINING
        costs = {n: json.loads(f.read_text(encoding="utf-8")) for n, f in found.items() if f.is_file()}
        retrain = costs.pop("", {})
        return self.concluded(run, bar, costs, retrain, command)

    def _lineage(self, run: RunFolder) -> Lineage:
        """The training data without what this request and earlier ones delete."""
        base = run.record["inputs"]["training data"]
        before = torch.tensor(self.subject.before.positions, dtype=torch.int64)
        return Lineage(base, len(self.subject.train), torch.cat([self.selected[0], before]).sort().values)

    def references(self, run: RunFolder) -> References:
        """The stage that trains what to compare with."""
        recipe, retain = self.subject.recipe, self.request.retain
        oracles: list[Module] = []
        holders: list[Module] = []
        cost: dict[str, float] = {}
        with run.stage("reference", RETRAINING) as stage:
            if recipe is not None and (self.oracles or self.holders):
                # with the retain set of another request as data, an oracle of one request is a holder of none
                without = self._lineage(run)
                before = torch.tensor(self.subject.before.positions, dtype=torch.int64)
                whole = Lineage(without.base, without.size, before)
                oracles = build_models(
                    recipe, retain, self.oracle_seeds,
                    jobs=self.jobs, cache=self.models, label="train oracles", network=self.subject.architecture,
                    lineage=without,
                )  # fmt: skip
                holders = build_models(
                    recipe, self.subject.left.train, self.holder_seeds, jobs=self.jobs, cache=self.models,
                    label="train models that hold the data", network=self.subject.architecture, lineage=whole,
                )  # fmt: skip
                cost = training_cost(recipe, retain, self.oracle_seeds, self.models) or {}
            if stage.todo:
                write_text(stage.paths[0], json.dumps(cost) + "\n")
            cost = json.loads(stage.paths[0].read_text(encoding="utf-8"))
        oracles += [self._from_outside(name) for name in self._outside if name.startswith("oracle")]
        holders += [self._from_outside(name) for name in self._outside if name.startswith("holder")]
        return References(oracles=oracles, holders=holders, cost=cost)

    def _from_outside(self, name: str) -> Module:
        model = self.subject.opened(self._outside[name])
        self.subject.kind.require_answers(model, self.request, f"the given {name}")
        return model

    def _audits(
        self,
        original: Module,
        edited: Mapping[str, Module | Sequence[Module]],
        costs: Mapping[str, Mapping[str, float]],
        references: References,
    ) -> list[Audit]:
        audits = []
        case = Case(
            request=self.request, original=original, holders=references.holders, oracles=references.oracles,
            rng=seeded(self.seed), quick=self.quick,
        )  # fmt: skip
        auditor = self.subject.kind.judge(case)
        with progress("audit", len(edited)) as bar:
            for name, model in edited.items():
                seconds = _seconds(costs.get(name), references.cost)
                found = self._named(auditor.audit(model, method=name, seconds=seconds))
                if found.verdict.outcome == "inconclusive" and self.exact(name, original):
                    found = by_construction(found)
                audits.append(advised(found, self.request, self.subject.recipe, original, self.subject.kind))
                bar.advance()
        return audits

    def _named(self, audit: Audit) -> Audit:
        """The audit with classes by their names, where the subject has any."""
        names = self.subject.class_names
        panels = tuple(
            replace(p, rows={names[int(k)] if int(k) < len(names) else k: row for k, row in p.rows.items()})
            if isinstance(p, Rows) and p.name == "classes"
            else p
            for p in audit.panels
        )
        return replace(audit, panels=panels)

    def _card(self, audit: Audit, model: Path) -> str:
        before = self.subject.model
        return audit_card(
            audit, made=self.subject.name, request=self.selected[1], library=library_of(model),
            former=None if isinstance(before, Module | None) else Path(before),
        )  # fmt: skip

    def _told(
        self,
        run: RunFolder,
        costs: Mapping[str, Mapping[str, float]],
        retrain: Mapping[str, float],
        command: Sequence[str],
    ) -> dict[str, Any]:
        record = run.record
        return {
            "request": self.selected[1],
            "model": self.subject.name,
            **({"notes": " ".join(self.notes)} if self.notes else {}),
            "command": " ".join(command),
            "cost": {
                "edit": {n: c["cpu_seconds"] for n, c in costs.items()},
                **({"retrain": retrain["cpu_seconds"]} if retrain else {}),
            },
            "settings": record["settings"],
            "seed": self.seed,
            "versions": record["versions"],
            "hardware": record["hardware"],
            "sha256 of inputs": record["inputs"],
            "sha256 of results": {f: h for s in record["stages"].values() for f, h in s["artefacts"].items()},
            "seconds of each stage": {
                name: t["seconds"]
                for name, t in record["times"]["stages"].items()
                if t["seconds"] is not None
            },
        }


def slug(name: str) -> str:
    """A method's name as part of a file's."""
    return "".join(c if c.isalnum() else "-" for c in name)


def _seconds(cost: Mapping[str, float] | None, retrain: Mapping[str, float]) -> dict[str, float] | None:
    if not cost:
        return None
    return {"edit": cost["cpu_seconds"], **({"retrain": retrain["cpu_seconds"]} if retrain else {})}
