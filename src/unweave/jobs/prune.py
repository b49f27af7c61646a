"""Prune a trained model, train on under the mask, and measure before and after."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from warnings import catch_warnings, simplefilter

from torch import Generator, Tensor
from torch.nn import Module

from ..catalogue import name_of, roles_of
from ..errors import InputError, IntegrityError, LeftDenseWarning
from ..fit import resumable
from ..io.content import described, fingerprint
from ..io.files import write_text
from ..io.onnx import export_onnx
from ..io.runs import RunFolder, Stage
from ..masks.scope import kept, share_kept
from ..prune import (
    NM,
    PASER,
    Channel,
    Global,
    Magnitude,
    Prune,
    Recovery,
    Shrunk,
    SparseGPT,
    WandaPrune,
    recalibrate_,
    shrink,
)
from ..prune.cutting.together import NarrowWarning
from ..prune.recalibrate import has_statistics, require_statistics
from ..random import draw_seed, seeded
from ..report import card
from ..report.models import render_pruned
from ..settings import Part, Positive, Whole, refuse_idle, settings
from ..tasks import ability, evaluating
from ..types import Data, Edit, Recipe, Score
from .coverage import coverage
from .done import facts_of
from .measured import Figures, compared, mebibytes, on_disk, weights
from .pruned import Pruned
from .recovering import as_asked_, by_recipe_
from .subject import Subject
from .target import Candidate, Target, measured_again, searched, share_of

_SAME = 1e-5  # largest difference of outputs that were read back, relative to the largest output


@settings
class PruneJob:
    """Zero the weights a trained model needs least.

    A subject without a model is trained first, by its recipe without pruning.

    Attributes:
        subject: model and data.
        method: how to prune (`Prune(...)`, `SparseGPT()`, ...), or a score, which prunes once over all layers.
        sparsity: share of the weights to remove, in [0, 1); the method's own unless given, 0.9 for a score.
        recover_epochs: passes of training under the mask afterwards, by the recipe; by AdamW and our own loop where it
            can only train as a whole.
        recover_lr: peak learning rate of these; the recipe's own unless given, 1e-3 for AdamW.
        recover: a way to recover that is none of the recipe's: masked training, low-rank adapters, distillation.
        instructions: what `recover` trains on, as far as `chooser` chooses it; the training data unless given.
        chooser: chooses of the instructions.
        shrink: remove dead channels for real, so that the model is smaller.
        onnx: write model.onnx too, and check that ONNX Runtime answers the same.
        packed: write sparse weights packed, a share of the bytes; see `unweave.io.packed`.
        target: what the model may cost at most: the sparsity is searched for that gets there.
        recalibrate: measure batch normalisation's running statistics again on the training data after the pruning; None
            does where there are such, a method prunes at once and nothing is trained afterwards.
        width: with `shrink`, cut channels too that layer normalisations count, and so the width of a transformer.
        seed: governs the whole run.
    """

    subject: Subject
    method: Edit[Data[Any]] | Score = Magnitude()
    sparsity: Part | None = None
    recover_epochs: Whole = 0
    recover_lr: Positive | None = None
    recover: Recovery | None = None
    instructions: Data[Any] | None = None
    chooser: PASER = PASER()
    shrink: bool = False
    onnx: bool = False
    packed: bool = False
    target: Target | None = None
    recalibrate: bool | None = None
    width: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        pattern = getattr(self.edit, "pattern", None)
        if self.shrink and pattern is not None and not isinstance(pattern, Channel):
            raise InputError(
                "PruneJob.shrink removes whole channels; it needs a method with the pattern Channel() "
                "(--pattern channel)."
            )
        if self.subject.model is None:
            self.subject.require_recipe(
                "no model can be trained", "Define `recipe`, or give the model (--model)."
            )
        if not self.shrink:
            refuse_idle(self, "width", when="without shrink")
        if self.recalibrate and self.recover_epochs:
            refuse_idle(
                self, "recalibrate", when="beside recover_epochs: training measures the statistics too"
            )
        if self.onnx:
            _ = self._sample
        if self.target is not None:
            self._require_searchable(self.target)
        if not self.recover_epochs:
            refuse_idle(self, "recover_lr", when="with recover_epochs=0")
        if self.recover is not None:
            self.recover.require()
            refuse_idle(self, "recover_epochs", when="beside recover, which has epochs of its own")
        else:
            refuse_idle(self, "instructions", when="without recover")
        if self.instructions is None:
            refuse_idle(self, "chooser", when="without instructions")

    def _require_searchable(self, target: Target) -> None:
        edit: Any = self.edit
        if not isinstance(edit, Prune | SparseGPT | WandaPrune):
            raise InputError(
                f"PruneJob.target prunes several times to find the sparsity; {name_of(edit)} trains. Give the sparsity."
            )
        if isinstance(edit.pattern, NM):
            raise InputError(f"PruneJob.target searches for a sparsity, and {edit.pattern} sets its own.")
        refuse_idle(self, "sparsity", when="beside target, which searches for it")
        if target.of in ("macs", "latency") and not self.shrink:
            raise InputError(
                f"PruneJob.target {target}: weights at zero make a model neither smaller nor faster. Prune whole "
                "channels and remove them: pattern Channel() with shrink=True (--pattern channel --shrink)."
            )
        if target.of == "bytes" and not (self.shrink or self.packed):
            raise InputError(
                f"PruneJob.target {target}: zeros take the bytes of other weights. Write them packed (packed=True, "
                "--packed), or remove whole channels (shrink=True, --shrink)."
            )

    @property
    def _sample(self) -> Tensor:
        """A batch of the one input by which a model is traced.

        Raises:
            InputError: if the model reads several, or token ids.
        """
        heldout = self.subject.heldout
        try:
            read: Tensor = heldout.task.inputs(next(heldout.batches()))
        except (InputError, AttributeError) as error:
            raise InputError(
                f"PruneJob.onnx traces a model by its one input tensor; the data of {self.subject.name} give another "
                "kind. Leave it out: the pruned model is written all the same."
            ) from error
        return read

    @property
    def edit(self) -> Edit[Data[Any]]:
        """What prunes."""
        method: Any = self.method
        if "Edit" not in roles_of(type(method)):
            return Prune(score=method, budget=Global(0.9 if self.sparsity is None else self.sparsity))
        edit: Edit[Data[Any]] = method if self.sparsity is None else at_sparsity(method, self.sparsity)
        return edit

    def plan(self) -> dict[str, Any]:
        """What is to be done, as plain JSON; a run goes on only under the same plan."""
        return {
            "prune": described(self.edit),
            "recover_epochs": self.recover_epochs,
            **({} if self.recover_lr is None else {"recover_lr": self.recover_lr}),
            "shrink": self.shrink,
            **({} if self.recalibrate is None else {"recalibrate": self.recalibrate}),
            **({} if self.width else {"width": False}),
            **({"packed": True} if self.packed else {}),
            **({} if self.target is None else {"target": str(self.target)}),
            **({"recover": described(self.recover)} if self.recover is not None else {}),
            **({"chooser": described(self.chooser)} if self.instructions is not None else {}),
            **({"deleted before": str(self.subject.before)} if self.subject.before.requests else {}),
        }

    def run(self, out: Path | str, *, command: Sequence[str] = ()) -> Pruned:
        """Run every stage, or go on with a run that was stopped, to the same bits.

        Args:
            out: run folder; see `RunFolder`.
            command: as the user typed it.
        """
        subject = self.subject
        told_of = {} if self.instructions is None else {"instructions": fingerprint(self.instructions)}
        given = subject.given()  # read before the folder is touched: a damaged file leaves no trace
        with RunFolder.open(
            Path(out),
            settings=self.plan(),
            inputs=subject.inputs() | told_of,
            seed=self.seed,
            command=command,
        ) as run:
            original = subject.trained(run, self._dense()) if given is None else given
            with run.stage("prune", "model", "prune.json") as stage:
                if stage.todo:
                    self._prune(original, stage)
            found = Pruned.read(run.path)
            if self.onnx:
                with run.stage("onnx", "model.onnx") as stage:
                    if stage.todo:
                        export_onnx(subject.read(found.model), self._sample, stage.paths[0])
            with run.stage("report", "report.html", f"model/{card.FILE}") as stage:
                if stage.todo:
                    edit = self.edit
                    named = name_of(edit.score if isinstance(edit, Prune) else edit)
                    page = render_pruned(
                        found.figures, found.layers, notes=(*subject.told, *found.notes), left=found.left,
                        uncut=found.uncut, method=named, subject=subject.name, run=facts_of(run, command),
                    )  # fmt: skip
                    write_text(stage.paths[0], page)
                    write_text(stage.paths[1], self._card(found, named))
        return found

    def _card(self, found: Pruned, method: str) -> str:
        subject = self.subject
        before = None if isinstance(subject.model, Module | None) else Path(subject.model)
        return card.pruned_card(
            found.figures, library=card.library_of(found.model), method=method, made=subject.name,
            notes=(*subject.told, *found.notes), former=before,
        )  # fmt: skip

    def _dense(self) -> Recipe:
        recipe: Any = self.subject.recipe
        fields = {f.name for f in dataclasses.fields(recipe)} if dataclasses.is_dataclass(recipe) else set()
        dense = {name: value for name, value in (("prune", None), ("recover_epochs", 0)) if name in fields}
        return dataclasses.replace(recipe, **dense) if dense else recipe  # type: ignore[no-any-return]

    def _prune(self, original: Module, stage: Stage) -> None:
        heldout = self.subject.heldout
        with resumable(stage.work):
            cut, searched = self._cut(original, stage.rng)
            silenced, small, pruned = cut.silenced, cut.small, cut.model
            figures, told = self._mended_(original, pruned, stage.rng)
        looked = coverage(self.edit, original, silenced)
        layers = {n: 100 * living / total for n, (living, total) in kept(silenced).items()}
        structure, uncut = (None, {}) if small is None else (small.structure, small.left)
        told += [*searched, *cut.told, *([] if small is None else _felt(small.apart))]
        figures = compared(original, pruned, heldout) | figures
        told += [] if self.target is None else measured_again(self.target, figures)
        figures["matrix weights kept"] = (100 * share_kept(original), 100 * share_kept(silenced), "%")
        if self.shrink:
            figures["weights in all"] = (weights(original), weights(pruned), "")
        self.subject.write(pruned, stage.paths[0], structure, packed=self.packed)
        self.subject.record((), stage.paths[0])
        notes = [*told, str(looked), *self._read_back(pruned, stage.paths[0], structure)]
        figures["weights in memory"] = (mebibytes(original), mebibytes(pruned), "MiB")
        figures["weights on disk"] = (mebibytes(original), on_disk(stage.paths[0]), "MiB")
        found = {"figures": figures, "layers": layers, "notes": notes, "left": looked.left, "uncut": uncut}
        write_text(stage.paths[1], json.dumps(found, indent=1) + "\n")

    def _cut(self, original: Module, rng: Generator) -> tuple[Candidate, list[str]]:
        """The pruned model before it is trained on, at the sparsity that was given or searched for."""
        if self.target is None:
            return self._at(self.edit, original, rng), []
        target, seed = self.target, draw_seed(rng)

        def make(sparsity: float) -> Candidate:
            return self._at(at_sparsity(self.edit, sparsity), original, seeded(seed), searching=True)

        def cost(found: Candidate) -> float:
            return share_of(target, original, found, self.subject.heldout, packed=self.packed)

        found, told = searched(target, make, cost)
        if found.small is not None:
            found = dataclasses.replace(found, small=self._small(found.silenced))
        return found, [told]

    def _at(self, edit: Any, original: Module, rng: Generator, *, searching: bool = False) -> Candidate:
        silenced, narrow = self._silenced(edit, original, rng)
        if not self.shrink:
            return Candidate(silenced, told=tuple(narrow))
        try:
            return Candidate(silenced, self._small(silenced, respell=not searching), tuple(narrow))
        except InputError as error:
            if not searching:
                raise
            return Candidate(silenced, told=tuple(narrow), why=str(error))

    def _silenced(self, edit: Any, original: Module, rng: Generator) -> tuple[Module, list[str]]:
        """The pruned model at its full size, and what is told of narrow layers."""
        pattern = getattr(edit, "pattern", None)
        if not self.width and isinstance(pattern, Channel):
            edit = dataclasses.replace(edit, pattern=dataclasses.replace(pattern, width=False))
        with catch_warnings(record=True) as warned:
            simplefilter("always", NarrowWarning)
            simplefilter("ignore", LeftDenseWarning)  # the report says it, layer by layer
            made: Module = edit.apply(original, self.subject.left.train, rng=rng)
        return made, list(
            dict.fromkeys(str(w.message) for w in warned if issubclass(w.category, NarrowWarning))
        )

    def _small(self, silenced: Module, *, respell: bool = True) -> Shrunk:
        heldout = self.subject.heldout
        batch = next(heldout.batches())
        return shrink(silenced, lambda m: heldout.task.outputs(m, batch), width=self.width, respell=respell)

    def _mended_(self, original: Module, pruned: Module, rng: Generator) -> tuple[Figures, list[str]]:
        """Measure batch normalisation again and train on, in place; returns what is told of it."""
        train, heldout = self.subject.left.train, self.subject.heldout
        figures: Figures = {}
        told: list[str] = []
        if self.recalibrate or (self.recalibrate is None and self._recalibrates(pruned)):
            require_statistics(pruned)
            name, right, unit = ability(original, heldout)
            figures[f"held-out {name} before recalibration"] = (right, ability(pruned, heldout)[1], unit)
            recalibrate_(pruned, train)
        if self.recover is not None:
            name, right, unit = ability(original, heldout)
            figures[f"held-out {name} before recovery"] = (right, ability(pruned, heldout)[1], unit)
            told = as_asked_(
                self.recover, pruned, train, original=original, instructions=self.instructions, chooser=self.chooser,
                rng=rng,
            )  # fmt: skip
        elif self.recover_epochs:
            told = by_recipe_(
                self.subject.recipe, pruned, train, epochs=self.recover_epochs, lr=self.recover_lr, rng=rng
            )
        return figures, told

    def _recalibrates(self, pruned: Module) -> bool:
        at_once = isinstance(self.edit, Prune | SparseGPT | WandaPrune)
        own = bool(getattr(self.edit, "recalibrate", False))
        trained = self.recover_epochs or self.recover is not None
        return at_once and not own and not trained and has_statistics(pruned)

    def _read_back(self, model: Module, folder: Path, structure: Mapping[str, Any] | None) -> list[str]:
        """Read the model that was written and compare its answers with those of the one in memory.

        Raises:
            IntegrityError: if they differ.
        """
        heldout = self.subject.heldout
        batch = next(heldout.batches())
        again = self.subject.read(folder)
        with evaluating(model), evaluating(again):
            wanted, found = heldout.task.outputs(model, batch), heldout.task.outputs(again, batch)
        gap = float((wanted - found).abs().max()) / max(1.0, float(wanted.abs().max()))
        if not gap <= _SAME:
            raise IntegrityError(
                f"the model that was written to {folder} answers otherwise than the one in memory: outputs differ by "
                f"{gap:.2g} of the largest. Do not use it."
            )
        notes = ["The model was read back from its folder, and answers as the one in memory."]
        if self.packed:
            notes.append(
                "Its weights are packed: unweave reads them (unweave.io: load_into, load_model), and no other library."
            )
        plain = not (folder / "structure.json").exists()
        if structure is not None and (folder / "config.json").exists() and not (plain and self.packed):
            notes.append(
                "Channels are missing unevenly: unweave.io.transformers_folder.load_model reads the folder by its "
                "structure.json; from_pretrained refuses it."
                if not plain
                else "Its config.json says the smaller widths, so transformers' from_pretrained reads the folder."
            )
        return notes


def at_sparsity(method: Any, sparsity: float) -> Any:
    """A way to prune, or to train sparsely, at another sparsity.

    Raises:
        InputError: if it has none to set.
    """
    budget = getattr(method, "budget", None)
    if budget is not None and dataclasses.is_dataclass(budget) and not isinstance(budget, type):
        return dataclasses.replace(method, budget=dataclasses.replace(budget, sparsity=sparsity))
    if any(f.name == "sparsity" for f in dataclasses.fields(method)):
        return dataclasses.replace(method, sparsity=sparsity)
    raise InputError(
        f"sparsity does not apply to {type(method).__name__}, which has no budget. Leave it out."
    )


def _felt(apart: float) -> list[str]:
    if apart <= 1e-4:
        return []
    return [
        f"Layer normalisations no longer count the channels that were cut: outputs differ by {apart:.2g} of the "
        "largest from those with the channels at zero. Train on (--recover-epochs), or leave the width (--no-width)."
    ]
