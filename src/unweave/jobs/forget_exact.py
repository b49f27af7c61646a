"""Delete from a model that can forget exactly: switch off or retrain what saw the data, and compare the bits."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from time import perf_counter
from typing import Any, Literal, Self

from rich.console import Console

from ..io.content import describe, described
from ..io.files import write_text
from ..io.requests import read_ids
from ..io.runs import RunFolder, Stage
from ..io.sealed import token
from ..parallel import single_threaded
from ..report.card import FILE, STILL, exact_card
from ..report.exact import markdown_exact, render_exact
from ..settings import settings
from ..unlearn.exact import Deleted, Ensemble, Service, kept_in, prove, save_exact, update_exact_
from ..unlearn.exact.ensemble import deleted
from ..unlearn.exact.folder import BASE, holding, is_exact, read_record
from ..unlearn.exact.proof import Proof
from ..unlearn.exact.service import Retrain
from .deletion import Deletion
from .done import Done, facts_of
from .exact import REPORTS, ids_of_subject, limits_of, opened, quality, state_figures, tell_figures
from .subject import Subject


@dataclass(frozen=True)
class ForgottenExactly(Done):
    """A finished exact deletion.

    Attributes:
        figures: name -> (value, unit).
        lead: what was done, in sentences.
        identical: whether what serves has the bits of a run without the data; None if that was not looked at.
        removed: names of the stage files that saw the deleted data and are not in the new folder.
        elsewhere: files of the folder it was made from that still hold the deleted data.
    """

    figures: Mapping[str, tuple[float, str]]
    lead: tuple[str, ...]
    identical: bool | None
    removed: tuple[str, ...]
    elsewhere: tuple[str, ...]

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read a finished run."""
        told = json.loads((folder / "forget.json").read_text(encoding="utf-8"))
        proof = json.loads((folder / "proof.json").read_text(encoding="utf-8"))
        figures = {n: (v, u) for n, (v, u) in {**told["figures"], **proof["figures"]}.items()}
        lead = (*told["lead"], *proof["lead"], *told["after"])
        return cls(
            folder, figures, lead, proof["identical"], tuple(told["removed"]),
            tuple(f for f in told["elsewhere"] if Path(f).exists()),
        )  # fmt: skip

    def json(self) -> str:
        """All of it as strict JSON."""
        told = {n: getattr(self, n) for n in ("figures", "lead", "identical", "removed", "elsewhere")}
        return json.dumps(told, indent=1) + "\n"

    def tell(self, out: Console) -> None:
        """Print what was done, then every figure."""
        for sentence in self.lead:
            out.print(sentence, markup=False)
        if self.elsewhere:
            out.print(f"{_still(self.elsewhere)}", markup=False)
        tell_figures(self.figures, out)
        out.print(f"Model: {self.model}\nReport: {self.page}", markup=False)


@settings
class ForgetExactJob:
    """Delete examples from a folder that `ExactJob` or this job wrote, into a new one.

    Attributes:
        subject: the data that it was trained on, with or without what is deleted; of a SISA with its recipe.
        folder: the run, or its `model`.
        ids: of the examples, or a file with them.
        classes: all examples of these classes.
        where: all examples whose column has this value: "COLUMN=VALUE".
        random: this many examples drawn at random, to try things out.
        retrain: "none" trains nothing; "dead" trains the orders that are dead on what is left; "all" every stage that
            was dropped. A SISA goes back and trains on ("all"), an S3T switches off ("none"), unless given.
        proof: which shards' serving stages are trained again without the data, to compare the bits: those "hit", "all",
            or "none".
        purge: also remove what saw the data from `folder`.
        seed: governs the whole run.
    """

    subject: Subject
    folder: Path | str
    ids: Path | str | Sequence[Any] | None = None
    classes: Sequence[str | int] = ()
    where: str = ""
    random: int | None = None
    retrain: Retrain | None = None
    proof: Literal["hit", "all", "none"] = "hit"
    purge: bool = False
    seed: int = 0

    @property
    def source(self) -> Path:
        """The folder with the record."""
        return source_of(self.folder)

    @cached_property
    def wanted(self) -> list[str]:
        """Ids to delete.

        Raises:
            InputError: if none is named.
        """
        if isinstance(self.ids, (str, Path)):
            return read_ids(Path(self.ids))
        if self.ids is not None:
            return [str(i) for i in self.ids]
        asked = Deletion(
            subject=self.subject, classes=self.classes, where=self.where, random=self.random, seed=self.seed
        )
        names = ids_of_subject(self.subject)
        return [names[i] for i in asked.selected[0].tolist()]

    def plan(self) -> dict[str, Any]:
        """What is to be done, as plain JSON; a run goes on only under the same plan."""
        return {
            "request": token(describe(sorted(self.wanted)).encode()), "retrain": self.retrain or "",
            "proof": self.proof, "recipe": described(self.subject.recipe),
        }  # fmt: skip

    def run(self, out: Path | str, *, command: Sequence[str] = ()) -> ForgottenExactly:
        """Run every stage, or go on with a run that was stopped, to the same bits.

        Args:
            out: run folder; see `RunFolder`.
            command: as the user typed it.

        Raises:
            InputError: if an id was never in the data, or the data are others.
            RetrainingDue: if nothing would be left to serve; nothing is written then.
        """
        record = read_record(self.source)
        service = opened(self.source, record["method"], self.subject)
        retrain: Retrain = self.retrain or ("all" if record["method"] == "SISA" else "none")
        if retrain == "none":
            service.without(self.wanted)[0].serving()
        else:
            service.without(self.wanted)[0].slices.positions(self.subject.train, ids_of_subject(self.subject))
        inputs = {k: v for k, v in self.subject.inputs().items() if k != "model"}
        inputs["model"] = describe([record[k] for k in ("method", "settings", "seed", "orders", "base")])
        with RunFolder.open(
            Path(out), settings=self.plan(), inputs=inputs, seed=self.seed, command=command
        ) as run:
            with run.stage("forget", "model", "forget.json") as stage:
                if stage.todo:
                    self._forget(stage, service, retrain, record)
            with run.stage("prove", "proof.json") as stage:
                if stage.todo:
                    self._prove(stage, run.path)
            if self.purge and ForgottenExactly.read(run.path).elsewhere:
                left = opened(run.path / "model", record["method"], self.subject)
                update_exact_(left, self.source, log=tuple(read_record(run.path / "model")["log"]))
                run.undo("report")
            with run.stage("report", *REPORTS, f"model/{FILE}") as stage:
                if stage.todo:
                    self._report(stage, ForgottenExactly.read(run.path), record, facts_of(run, command))
        return ForgottenExactly.read(run.path)

    def _forget(self, stage: Stage, service: Service, retrain: Retrain, record: Mapping[str, Any]) -> None:
        subject, ids, began = self.subject, ids_of_subject(self.subject), perf_counter()
        keep = kept_in(stage.work)
        work = partial(deleted, service, self.wanted, retrain=retrain, data_ids=ids, run=keep)
        left, done = single_threaded(work, subject.train)
        aggregate = record["settings"]["aggregate"]
        after = Ensemble.of(left, aggregate)
        removed, held = [_told(key) for key in done.removed], holding(self.source, done.removed)
        entry = {
            "ids": len(done.ids),
            "before": len(done.before),
            "removed": len(removed),
            "trained": len(done.trained),
        }
        base = self.source / BASE
        save_exact(
            left, stage.paths[0], log=(*record["log"], entry), source=record["source"],
            write=lambda _, to: _copied(base, to),
        )  # fmt: skip
        seconds = perf_counter() - began
        before = Ensemble.of(service, aggregate) if any(map(any, service.lengths())) else None
        figures = {
            "ids deleted": (len(done.ids), "examples"),
            "ids deleted before": (len(done.before), "examples"),
            "slices hit": (len(done.hit), f"of {service.slices.shards * service.slices.slices}"),
            "stages removed": (len(removed), "stages"),
            "stages trained anew": (len(done.trained), "stages"),
            **state_figures(left, self.seed),
            **(
                {f"held-out {n}, before": v for n, v in quality(before, subject.heldout).items()}
                if before
                else {}
            ),
            **{f"held-out {n}": v for n, v in quality(after, subject.heldout).items()},
            "time of the deletion": (seconds, "s"),
        }
        told = {
            "figures": figures, "lead": _lead(done, retrain), "after": _after(figures), "removed": held,
            "elsewhere": [str(self.source / name) for name in held], "hit": sorted({k for k, _ in done.hit}),
        }  # fmt: skip
        write_text(stage.paths[1], json.dumps(told, indent=1) + "\n")

    def _prove(self, stage: Stage, run: Path) -> None:
        told: dict[str, Any] = {"figures": {}, "identical": None, "lead": [_NOT_LOOKED]}
        if self.proof != "none":
            record, began = read_record(run / "model"), perf_counter()
            service = opened(run / "model", record["method"], self.subject)
            hit = json.loads((run / "forget.json").read_text(encoding="utf-8"))["hit"]
            shards = hit if self.proof == "hit" else list(range(service.slices.shards))
            ids, keep = ids_of_subject(self.subject), kept_in(stage.work)
            again = partial(prove, service, shards=shards, ids=ids, run=keep)
            proof: Proof = single_threaded(again, self.subject.train)
            told = {
                "figures": {
                    "stages trained again to compare": (len(proof.stages), "stages"),
                    "tensors compared": (proof.tensors, "tensors"),
                    "tensors that differ": (len(proof.differing), "tensors"),
                    "time of the comparison": (perf_counter() - began, "s"),
                },
                "identical": not proof.differing if proof.stages else None,
                "lead": [_verdict(proof, shards)],
            }  # fmt: skip
        write_text(stage.paths[0], json.dumps(told, indent=1) + "\n")

    def _report(
        self, stage: Stage, found: ForgottenExactly, record: Mapping[str, Any], run: Mapping[str, Any]
    ) -> None:
        title = {True: "Forgotten exactly", None: "Switched off, not compared", False: "Not the same bits"}
        limits = limits_of(record["settings"]["pretrained_on"])
        if found.elsewhere:
            limits.insert(0, _still(found.elsewhere))
        tables = {"Stage files that saw the deleted data": [("file",), *((name,) for name in found.removed)]}
        told = (
            title[found.identical], f"{record['method']} on {self.subject.name}", found.lead, found.figures, tables,
            limits, run,
        )  # fmt: skip
        write_text(stage.paths[0], render_exact(*told))
        write_text(stage.paths[1], markdown_exact(*told))
        lasting = [
            *limits_of(record["settings"]["pretrained_on"]),
            STILL,
        ]  # no place, which is none of the model's
        card = exact_card(title[found.identical], found.lead, found.figures, lasting, made=self.subject.name)
        write_text(stage.paths[2], card)


_NOT_LOOKED = "The bits were not compared with those of a run without the data (proof=none)."


def source_of(folder: Path | str) -> Path:
    """The folder with the record: the one given, or the `model` in it."""
    folder = Path(folder)
    return folder if is_exact(folder) or not is_exact(folder / "model") else folder / "model"


def _copied(base: Path, to: Path) -> None:
    shutil.copytree(base, to)


def _lead(done: Deleted, retrain: Retrain) -> list[str]:
    lead = [f"{len(done.ids):,} examples were deleted; they lay in {len(done.hit)} slices."]
    if done.before:
        lead.append(
            f"{len(done.before):,} of those asked for had been deleted before: nothing was left to do."
        )
    cut = sum(after < before for before, after in done.served)
    dead = sum(not after for _, after in done.served)
    lead.append(
        f"{len(done.removed):,} stages saw one of them and were removed"
        + (
            f"; {len(done.trained):,} were trained anew without them (retrain={retrain})."
            if done.trained
            else "."
        )
    )
    if cut or dead:
        lead.append(f"{cut} shards now serve a shorter prefix, and {dead} of {len(done.served)} are dead.")
    return lead


def _after(figures: Mapping[str, tuple[float, str]]) -> list[str]:
    mean, least = (figures[n][0] for n in ("requests left, expected", "requests left, at least"))
    return [
        f"About {round(mean)} further requests of one example can be served without any training, at least "
        f"{least}; then a retraining is due."
    ]


def _verdict(proof: Proof, shards: Sequence[int]) -> str:
    if not proof.stages:
        why = "no shard was hit" if not shards else "no stage of the shards that were hit serves any more"
        return f"There was nothing to compare: {why}."
    if proof.differing:
        return (
            f"NOT EXACT: {len(proof.differing)} of {proof.tensors} tensors differ from those of a run without the "
            f"data: {'; '.join(proof.differing[:3])}. Other data, versions or hardware than at the training give "
            "other bits."
        )
    return (
        f"Exact: {len(proof.stages)} serving stages of {len({k for k, _ in proof.stages})} shards were trained again "
        f"without the data, and all {proof.tensors} tensors have the same bits."
    )


def _told(key: tuple[int, tuple[int, ...]]) -> str:
    return f"shard {key[0]}, slices {', '.join(map(str, key[1]))}"


def _still(files: Sequence[str]) -> str:
    folder = Path(files[0]).parent
    return (
        f"{len(files)} files in {folder} still hold what was deleted: the model from before. Remove them (purge), or "
        "the folder."
    )
