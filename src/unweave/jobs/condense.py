"""Make a mixture of experts smaller: folder in, folder out, with what it cost measured beside two baselines."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from rich.console import Console
from torch.nn import Module

from ..catalogue import name_of
from ..errors import InputError, IntegrityError
from ..experts import CDMoE, ExpertPruning
from ..experts._recover import Recovery, expert_places, recover_
from ..io.causal_lm import load_causal_lm, save_causal_lm
from ..io.content import described
from ..io.files import write_text
from ..io.loading import read_tokenizer
from ..io.runs import RunFolder, Stage
from ..io.texts import read_sequences
from ..models.moe import record_of
from ..report.condensed import render_condensed, shown
from ..settings import Count, settings
from ..tasks import predict
from ..types import Data, Edit
from .condense_figures import Questions, baseline, became, compared, layer_distances, read_questions
from .done import Done, facts_of


@dataclass(frozen=True)
class CondensedRun(Done):
    """A finished condensation.

    Attributes:
        figures: name -> (before, after, unit).
        spread: name of a figure -> half of its range over repeats (before, after).
        layers: block -> what became of it, in words.
        distances: block -> Jensen-Shannon divergence of its decoder layer's output from the original's, in nats, on the
            held-out texts.
        steps: replaced module -> distance of the final hidden state once it and those before were replaced.
        beside: baseline -> its figures (perplexity, accuracy where options are given, parameters left and used by a
            token as shares, tokens a second), at no more memory; or why there is none.
        notes: sentences on how the model is read again.
    """

    figures: Mapping[str, tuple[float, float, str]]
    layers: Mapping[str, str]
    spread: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    distances: Mapping[str, float] = field(default_factory=dict)
    steps: Mapping[str, float] = field(default_factory=dict)
    beside: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read a finished run."""
        told = json.loads((folder / "condense.json").read_text(encoding="utf-8"))
        figures = {n: (b, a, u) for n, (b, a, u) in told.pop("figures").items()}
        return cls(folder, figures, **told)

    def json(self) -> str:
        """Figures and baselines as strict JSON."""
        told = {"figures": self.figures, "spread": self.spread, "beside": self.beside}
        return json.dumps(told, indent=1) + "\n"

    def tell(self, out: Console) -> None:
        """Print every figure before and after, and the baselines."""
        for name, cells in shown(self.figures, self.spread).items():
            old, new, unit = cells
            out.print(f"  {name:28} {old:>18} -> {new:<18} {unit}", markup=False)
        for name, told in self.beside.items():
            words = told if isinstance(told, str) else ", ".join(f"{n} {v:.4g}" for n, v in told.items())
            out.print(f"  beside it, {name}: {words}", markup=False)
        for note in self.notes:
            out.print(note, markup=False)
        out.print(f"Model: {self.model}\nReport: {self.page}", markup=False)


@settings
class CondenseJob:
    """Condense, prune or merge the experts of a causal language model's folder.

    Attributes:
        folder: of the model, with its tokenizer.
        calibration: texts, .txt or .jsonl (see `read_sequences`); every tenth sequence is held out to measure
            on, unless `heldout` is given.
        heldout: texts to measure on.
        method: a method of the family experts.
        options: questions to answer, a .jsonl of {"prompt", "options", "answer"}; accuracy is measured on them.
        recover: tuning after a method that has none of its own; see `CDMoE.recover`. The experts that are left move.
        length: tokens of the longest sequence.
        baselines: measure two baselines at no more memory as well.
        seed: governs the whole run.
    """

    folder: Path
    calibration: Path
    heldout: Path | None = None
    method: Edit[Data[Any]] = CDMoE()
    options: Path | None = None
    recover: Recovery = "none"
    length: Count = 256
    baselines: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.recover != "none" and hasattr(self.method, "recover"):
            raise InputError(
                f"CondenseJob.recover would do nothing: {type(self.method).__name__} has a setting recover of its own."
            )

    def plan(self) -> dict[str, Any]:
        """What is to be done, as plain JSON; a run goes on only under the same plan."""
        return {"condense": described(self.method), "length": self.length, "baselines": self.baselines} | (
            {} if self.recover == "none" else {"recover": self.recover}
        )

    def run(self, out: Path | str, *, command: Sequence[str] = ()) -> CondensedRun:
        """Run every stage, or go on with a run that was stopped, to the same bits.

        Args:
            out: run folder; see `RunFolder`.
            command: as the user typed it.

        Raises:
            InputError: if model, texts or method do not fit each other; nothing is written then.
        """
        model = load_causal_lm(self.folder)
        train, heldout = self._texts()
        asked = (
            None
            if self.options is None
            else read_questions(self.options, read_tokenizer(self.folder), self.length)
        )
        check: Any = self.method
        check.check(model)
        inputs: dict[str, Path | str] = {"model": self.folder, "calibration": self.calibration}
        inputs |= {} if self.heldout is None else {"heldout": self.heldout}
        inputs |= {} if self.options is None else {"options": self.options}
        with RunFolder.open(
            Path(out), settings=self.plan(), inputs=inputs, seed=self.seed, command=command
        ) as run:
            with run.stage("condense", "model", "condense.json") as stage:
                if stage.todo:
                    self._condense(model, train, heldout, asked, stage)
            found = CondensedRun.read(run.path)
            with run.stage("report", "report.html") as stage:
                if stage.todo:
                    page = render_condensed(
                        found.figures, found.spread, found.layers, found.distances, found.steps, found.beside,
                        notes=found.notes, method=name_of(self.method), subject=self.folder.name,
                        run=facts_of(run, command),
                    )  # fmt: skip
                    write_text(stage.paths[0], page)
        return found

    def _texts(self) -> tuple[Data[Any], Data[Any]]:
        tokenizer = read_tokenizer(self.folder)
        train = read_sequences(self.calibration, tokenizer, self.length).data
        if self.heldout is not None:
            return train, read_sequences(self.heldout, tokenizer, self.length).data
        held = [i for i in range(len(train)) if i % 10 == 9]
        if not held:
            raise InputError(
                f"{self.calibration} holds {len(train)} sequences; every tenth is held out to measure on, so 10 are "
                "needed. Give more, or texts to measure on (heldout; --heldout on the command line)."
            )
        return train.subset([i for i in range(len(train)) if i % 10 != 9]), train.subset(held)

    def _condense(
        self, model: Module, train: Data[Any], heldout: Data[Any], asked: Questions | None, stage: Stage
    ) -> None:
        method, steps = self.method, dict[str, float]()
        if isinstance(method, CDMoE):
            choice = method.choose(model, train, rng=stage.rng)
            steps = dict(zip(choice.order, choice.final, strict=True))
            edited = method.carry_out(choice, model, train, rng=stage.rng)
        else:
            edited = method.apply(model, train, rng=stage.rng)
        if self.recover != "none":
            recover_(edited, model, train, expert_places(edited), by=self.recover, rng=stage.rng)
        structure = record_of(edited)
        save_causal_lm(edited, stage.paths[0], source=self.folder, structure=structure or None)
        notes = [_read_back(edited, stage.paths[0], heldout)]
        figures, spread = compared(model, edited, heldout, asked)
        share = figures["parameters"][1] / figures["parameters"][0]
        beside = self._beside(model, train, heldout, asked, share, stage) if self.baselines else {}
        found = {
            "figures": figures, "spread": spread, "layers": became(model, edited), "steps": steps, "beside": beside,
            "distances": layer_distances(model, edited, heldout), "notes": notes,
        }  # fmt: skip
        write_text(stage.paths[1], json.dumps(found, indent=1) + "\n")

    def _beside(
        self, model: Module, train: Data[Any], heldout: Data[Any], asked: Questions | None, share: float, stage: Stage
    ) -> dict[str, Any]:  # fmt: skip
        """Two baselines of another kind that end with at most as many parameters."""
        memory = min(1.0, share + 1e-9)
        others: dict[str, Any] = {
            "layer trimming": CDMoE(mode="layer trim", memory=memory),
            "pruning by REAP": ExpertPruning(memory=memory),
            "pruning by frequency": ExpertPruning(score="frequency", memory=memory),
        }
        mine = {
            "layer trim": "layer trimming",
            "reap": "pruning by REAP",
            "frequency": "pruning by frequency",
        }
        own: Any = self.method
        others.pop(mine.get(getattr(own, "mode", getattr(own, "score", "")), ""), None)
        found: dict[str, Any] = {}
        for name, other in list(others.items())[:2]:
            try:
                edited = other.apply(model, train, rng=stage.rng)
            except InputError as error:
                found[name] = f"not possible: {error}"
                continue
            found[name] = baseline(model, edited, heldout, asked)
        return found


def _read_back(model: Module, folder: Path, heldout: Data[Any]) -> str:
    again = load_causal_lm(folder)
    one = heldout.subset([0])
    if not torch.equal(predict(model, one), predict(again, one)):
        raise IntegrityError(
            f"the model written to {folder} answers otherwise than the one in memory. Do not use it."
        )
    how = (
        "unweave.io.causal_lm.load_causal_lm(folder) reads it by its structure.json; "
        "from_pretrained refuses or misreads it."
        if (folder / "structure.json").exists()
        else "its config.json says the new shape, so transformers' from_pretrained reads it."
    )
    return f"The model was read back from its folder and answers to the bit as the one in memory; {how}"
