"""How sensitive each layer is: the held-out figure with that layer alone pruned, at several sparsities."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self
from warnings import catch_warnings, simplefilter

import torch
from rich.console import Console
from torch import Generator
from torch.nn import Module

from ..catalogue import name_of, roles_of
from ..derivatives import spaced
from ..errors import InputError
from ..io.content import described
from ..io.files import write_text
from ..io.runs import RunFolder, Stage
from ..masks.layers import copied
from ..masks.mask import Mask
from ..masks.scope import Scope, matrices
from ..progress import progress
from ..prune import NM, Magnitude, Prune, SparseGPT, WandaPrune
from ..random import draw_seed, seeded
from ..report import words
from ..report.scanned import render_scanned
from ..settings import Count, settings
from ..tasks import ability, predict
from ..types import Data, Edit, Score
from .coverage import scope_of
from .done import Done, facts_of
from .exact import dense
from .prune import at_sparsity
from .subject import Subject

Point = tuple[float, float]
"""The held-out figure, and the held-out loss."""


@dataclass(frozen=True)
class Scanned(Done):
    """A finished scan; no model was written.

    Attributes:
        figure: name of the held-out figure.
        unit: of it.
        dense: what the unpruned model reaches.
        layers: layer, or the first of those that fall together -> sparsity -> what is reached with it alone pruned.
        shares: layer -> % of the matrix weights that it holds, those of all layers that fall with it included.
        notes: sentences on what was measured.
        left: layer -> why it could not be pruned.
    """

    figure: str
    unit: str
    dense: Point
    layers: Mapping[str, Mapping[float, Point]]
    shares: Mapping[str, float]
    notes: Sequence[str] = ()
    left: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read a finished run."""
        told = json.loads((folder / "scan.json").read_text(encoding="utf-8"))
        layers = {n: {float(s): (f, v) for s, (f, v) in row.items()} for n, row in told.pop("layers").items()}
        f, v = told.pop("dense")
        return cls(folder, layers=layers, dense=(f, v), **told)

    @property
    def ranked(self) -> list[str]:
        """The layers, the most sensitive first: by how much the loss rises, on average over the sparsities."""

        def rise(name: str) -> float:
            losses = [loss for _, loss in self.layers[name].values()]
            return sum(losses) / max(1, len(losses)) - self.dense[1]

        return sorted(self.layers, key=rise, reverse=True)

    def json(self) -> str:
        """The figures as strict JSON."""
        return (self.folder / "scan.json").read_text(encoding="utf-8")

    def tell(self, out: Console) -> None:
        """Print what each layer costs, the most sensitive first."""
        at = sorted({s for row in self.layers.values() for s in row})
        wide = max((len(n) for n in self.layers), default=5)
        whole = f"{words.number(self.dense[0], digits=4)} {self.unit}".strip()
        out.print(f"Held-out {self.figure} {whole}, with one layer alone pruned:", markup=False)
        out.print(
            f"  {'layer':{wide}} {'weights':>8} " + " ".join(f"{f'at {s:g}':>9}" for s in at), markup=False
        )
        for name in self.ranked:
            cells = (
                words.number(self.layers[name][s][0], digits=4) if s in self.layers[name] else "" for s in at
            )
            share = f"{self.shares.get(name, 0):.1f} %"
            out.print(f"  {name:{wide}} {share:>8} " + " ".join(f"{c:>9}" for c in cells), markup=False)
        for note in self.notes:
            out.print(note, markup=False)
        for name, why in self.left.items():
            out.print(f"Not pruned: {name} ({why})", markup=False)
        out.print(f"Report: {self.page}", markup=False)


@settings
class ScanJob:
    """Prune each layer alone at several sparsities and measure; the model stays as it is, and none is written.

    Attributes:
        subject: model and data; a subject without a model is trained first, by its recipe without pruning.
        method: how to prune at once (`Prune(...)`, `SparseGPT()`, ...), or a score. With the pattern `Channel` units
            that fall together are one entry, named by their first layer.
        sparsities: shares of a layer to remove; an N:M pattern has one of its own.
        examples: of the held-out ones that are measured, evenly spaced; None takes all.
        seed: governs the whole run.
    """

    subject: Subject
    method: Edit[Data[Any]] | Score = Magnitude()
    sparsities: tuple[float, ...] = (0.25, 0.5, 0.75, 0.9)
    examples: Count | None = 512
    seed: int = 0

    def __post_init__(self) -> None:
        at = self.sparsities
        if not at or len(set(at)) < len(at) or not all(0 < s < 1 for s in at):
            raise InputError(
                f"ScanJob.sparsities must be different shares above 0 and below 1; got {list(at)}."
            )
        if not isinstance(self.edit, Prune | SparseGPT | WandaPrune):
            raise InputError(
                f"ScanJob.method prunes a layer at once; {name_of(self.edit)} trains. Take a score, sparse-gpt or "
                "wanda-prune."
            )
        if self.subject.model is None:
            self.subject.require_recipe(
                "no model can be trained", "Define `recipe`, or give the model (--model)."
            )

    @property
    def edit(self) -> Any:
        """What prunes."""
        method: Any = self.method
        return method if "Edit" in roles_of(type(method)) else Prune(score=method)

    @property
    def at(self) -> tuple[float, ...]:
        """The sparsities that are measured."""
        own = self.edit.pattern
        return (own.sparsity,) if isinstance(own, NM) else self.sparsities

    def plan(self) -> dict[str, Any]:
        """What is to be done, as plain JSON; a run goes on only under the same plan."""
        return {"scan": described(self.edit), "sparsities": list(self.at), "examples": self.examples}

    def run(self, out: Path | str, *, command: Sequence[str] = ()) -> Scanned:
        """Run every stage, or go on with a run that was stopped.

        Args:
            out: run folder; see `RunFolder`.
            command: as the user typed it.
        """
        given = self.subject.given()
        inputs = self.subject.inputs()
        with RunFolder.open(
            Path(out), settings=self.plan(), inputs=inputs, seed=self.seed, command=command
        ) as run:
            recipe: Any = dense(self.subject).recipe
            model = self.subject.trained(run, recipe) if given is None else given
            with run.stage("scan", "scan.json") as stage:
                if stage.todo:
                    self._scan(model, stage)
            found = Scanned.read(run.path)
            with run.stage("report", "report.html") as stage:
                if stage.todo:
                    page = render_scanned(
                        found.figure, found.unit, found.dense, found.layers, found.ranked, found.shares,
                        notes=(*self.subject.told, *found.notes), left=found.left,
                        method=name_of(self.edit.score if isinstance(self.edit, Prune) else self.edit),
                        subject=self.subject.name, run=facts_of(run, command),
                    )  # fmt: skip
                    write_text(stage.paths[0], page)
        return found

    def _scan(self, model: Module, stage: Stage) -> None:
        heldout = spaced(self.subject.heldout, self.examples)
        train = self.subject.left.train
        name, reached, unit = ability(model, heldout)
        so_far = stage.work / "layers.json"
        found: dict[str, dict[str, Any]] = json.loads(so_far.read_text()) if so_far.exists() else {}
        left: dict[str, str] = {}
        parts = dict(_alone(self.edit, model, train, stage.rng))
        with progress("scan", len(parts)) as bar:
            for part, make in parts.items():
                if part not in found:
                    try:
                        found[part] = self._part(model, make, heldout)
                    except InputError as error:
                        left[part] = str(error)
                    write_text(so_far, json.dumps(found))
                bar.advance()
        told = {
            "figure": name, "unit": unit, "dense": (reached, _loss(model, heldout)), "left": left,
            "layers": {part: told["points"] for part, told in found.items()},
            "shares": {part: told["share"] for part, told in found.items()}, "notes": self._notes(len(heldout)),
        }  # fmt: skip
        write_text(stage.paths[0], json.dumps(told, indent=1) + "\n")

    def _part(self, model: Module, make: Callable[[float], Module], heldout: Data[Any]) -> dict[str, Any]:
        points, share = {}, 0.0
        for s in self.at:
            pruned = make(s)
            points[f"{s:g}"] = _measured(pruned, heldout)
            share = max(share, _share(model, pruned))
        return {"points": points, "share": share}

    def _notes(self, examples: int) -> list[str]:
        of = len(self.subject.heldout)
        seen = (
            f"{examples:,} of {of:,} held-out examples" if examples < of else f"all {of:,} held-out examples"
        )
        return [
            f"Measured on {seen}, at once: nothing was trained on, no batch normalisation measured again, and no model "
            "written. Layers pruned together lose more than each alone.",
        ]


def _alone(
    edit: Any, model: Module, data: Data[Any], rng: Generator
) -> Iterator[tuple[str, Callable[[float], Module]]]:
    """Each layer with what prunes it alone, at a sparsity."""
    if isinstance(edit, Prune):

        def masked(mask: Callable[[float], Mask], sparsity: float) -> Module:
            return mask(sparsity).apply_(copied(model))

        for name, mask in edit.one_by_one(model, data, rng=rng).items():
            yield name, partial(masked, mask)
        return
    scope, seed = scope_of(edit), draw_seed(rng)

    def pruned(name: str, sparsity: float) -> Module:
        one: Scope = dataclasses.replace(scope, only=(name,), skip=(), least=0.0)
        at = edit if isinstance(edit.pattern, NM) else at_sparsity(edit, sparsity)
        with catch_warnings():
            simplefilter("ignore", UserWarning)  # of layers left dense: all but one are
            made: Module = dataclasses.replace(at, scope=one).apply(model, data, rng=seeded(seed))
        return made

    for name in dataclasses.replace(scope, least=0.0).weights(model):
        yield name, partial(pruned, name)


def _share(model: Module, pruned: Module) -> float:
    """Share of the matrix weights in those matrices that a pruning changed, %."""
    others = dict(pruned.named_parameters())
    sizes = {w.name: w.parameter.numel() for w in matrices(model)}
    changed = [w.name for w in matrices(model) if not torch.equal(w.parameter, others[w.name])]
    return 100 * sum(sizes[name] for name in changed) / (sum(sizes.values()) or 1)


def _measured(model: Module, data: Data[Any]) -> Point:
    return ability(model, data)[1], _loss(model, data)


def _loss(model: Module, data: Data[Any]) -> float:
    return float(predict(model, data, data.task.losses).double().mean())
