"""Make a mixture of experts smaller: folder in, folder out, with what it cost measured beside two baselines."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, Self

import torch
from rich.console import Console
from torch.nn import Module

from ..catalogue import name_of
from ..errors import InputError, IntegrityError
from ..experts import CDMoE, ExpertPruning
from ..io.causal_lm import load_causal_lm, save_causal_lm
from ..io.content import described
from ..io.files import write_text
from ..io.loading import read_tokenizer
from ..io.runs import RunFolder, Stage
from ..io.texts import read_sequences
from ..models.moe import Condensed, MoE, Tied, Trimmed, moe_layers, record_of
from ..report import words
from ..report.condensed import render_condensed
from ..settings import Count, settings
from ..tasks import evaluating, perplexity, predict
from ..types import Data, Edit
from .done import Done, facts_of

_BATCHES = (1, 8, 32)
_TIMES = 5
Figures = dict[str, tuple[float, float, str]]
"""Name -> (before, after, unit)."""


@dataclass(frozen=True)
class CondensedRun(Done):
    """A finished condensation.

    Attributes:
        figures: name -> (before, after, unit).
        layers: block -> what became of it, in words.
        steps: replaced module -> distance of the final hidden state once it and those before were replaced.
        beside: baseline -> (perplexity, share of the parameters), at the same memory; or why there is none.
        notes: sentences on how the model is read again.
    """

    figures: Mapping[str, tuple[float, float, str]]
    layers: Mapping[str, str]
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
        return json.dumps({"figures": self.figures, "beside": self.beside}, indent=1) + "\n"

    def tell(self, out: Console) -> None:
        """Print every figure before and after, and the baselines."""
        for name, (before, after, unit) in self.figures.items():
            old, new = words.number(before, digits=4), words.number(after, digits=4)
            out.print(f"  {name:34} {old:>12} -> {new:<12} {unit}", markup=False)
        for name, told in self.beside.items():
            shown = (
                told
                if isinstance(told, str)
                else f"perplexity {told[0]:.4g} at {100 * told[1]:.1f} % of the parameters"
            )
            out.print(f"  beside it, {name}: {shown}", markup=False)
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
        length: tokens of the longest sequence.
        baselines: measure two baselines at no more memory as well.
        seed: governs the whole run.
    """

    folder: Path
    calibration: Path
    heldout: Path | None = None
    method: Edit[Data[Any]] = CDMoE()
    length: Count = 256
    baselines: bool = True
    seed: int = 0

    def plan(self) -> dict[str, Any]:
        """What is to be done, as plain JSON; a run goes on only under the same plan."""
        return {"condense": described(self.method), "length": self.length, "baselines": self.baselines}

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
        check: Any = self.method
        check.check(model)
        inputs: dict[str, Path | str] = {"model": self.folder, "calibration": self.calibration}
        inputs |= {} if self.heldout is None else {"heldout": self.heldout}
        with RunFolder.open(
            Path(out), settings=self.plan(), inputs=inputs, seed=self.seed, command=command
        ) as run:
            with run.stage("condense", "model", "condense.json") as stage:
                if stage.todo:
                    self._condense(model, train, heldout, stage)
            found = CondensedRun.read(run.path)
            with run.stage("report", "report.html") as stage:
                if stage.todo:
                    page = render_condensed(
                        found.figures, found.layers, found.steps, found.beside, notes=found.notes,
                        method=name_of(self.method), subject=self.folder.name, run=facts_of(run, command),
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

    def _condense(self, model: Module, train: Data[Any], heldout: Data[Any], stage: Stage) -> None:
        method, steps = self.method, dict[str, float]()
        if isinstance(method, CDMoE):
            choice = method.choose(model, train, rng=stage.rng)
            steps = dict(zip(choice.order, choice.final, strict=True))
            edited = method.carry_out(choice, model, train, rng=stage.rng)
        else:
            edited = method.apply(model, train, rng=stage.rng)
        structure = record_of(edited)
        save_causal_lm(edited, stage.paths[0], source=self.folder, structure=structure or None)
        notes = [_read_back(edited, stage.paths[0], heldout)]
        figures = _figures(model, edited, heldout)
        share = figures["parameters"][1] / figures["parameters"][0]
        beside = self._beside(model, train, heldout, share, stage) if self.baselines else {}
        found = {
            "figures": figures, "layers": _became(model, edited), "steps": steps, "beside": beside, "notes": notes,
        }  # fmt: skip
        write_text(stage.paths[1], json.dumps(found, indent=1) + "\n")

    def _beside(
        self, model: Module, train: Data[Any], heldout: Data[Any], share: float, stage: Stage
    ) -> dict[str, Any]:
        """Two baselines that end with at most as many parameters."""
        memory = min(1.0, share + 1e-9)
        condensing = isinstance(self.method, CDMoE)
        others: dict[str, Any] = {
            "layer trimming": CDMoE(mode="layer trim", memory=memory),
            "pruning by REAP" if condensing else "pruning by frequency": ExpertPruning(
                score="reap" if condensing else "frequency", memory=memory
            ),
        }
        found: dict[str, Any] = {}
        for name, other in others.items():
            try:
                edited = other.apply(model, train, rng=stage.rng)
            except InputError as error:
                found[name] = f"not possible: {error}"
                continue
            found[name] = (perplexity(edited, heldout), _size(edited) / _size(model))
        return found


def _figures(before: Module, after: Module, heldout: Data[Any]) -> Figures:
    figures: Figures = {
        "held-out perplexity": (perplexity(before, heldout), perplexity(after, heldout), ""),
        "parameters": (_size(before), _size(after), ""),
        "parameters a token uses": (_active(before), _active(after), ""),
        "weights": (_bytes(before), _bytes(after), "MiB"),
    }
    for size in _BATCHES:
        (was, spread), (now, new) = (_speed(m, heldout, size) for m in (before, after))
        figures[f"tokens a second, batch {size}"] = (was, now, "")
        figures[f"  its spread, batch {size}"] = (spread, new, "")
    return figures


def _speed(model: Module, data: Data[Any], size: int) -> tuple[float, float]:
    """Tokens a second of one forward pass of a batch, the median and half of the range of several."""
    longest = max((item["input_ids"] for item in data.examples), key=len)  # type: ignore[attr-defined]
    batch = {"input_ids": longest.repeat(size, 1)}
    rates = []
    with evaluating(model):
        for _ in range(_TIMES):
            began = perf_counter()
            data.task.outputs(model, batch)
            rates.append(batch["input_ids"].numel() / (perf_counter() - began))
    return median(rates[1:]), (max(rates[1:]) - min(rates[1:])) / 2


def _active(model: Module) -> float:
    """Parameters that one token meets: all but the experts that it does not choose."""
    idle = 0.0
    for moe in _blocks(model):
        held = sum(p.numel() for p in moe.experts.parameters())
        idle += held * (1 - min(moe.top_k, moe.count) / moe.count)
    return _size(model) - idle


def _blocks(model: Module) -> list[MoE]:
    try:
        return moe_layers(model)
    except InputError:  # all of them are condensed, or merged
        return []


def _became(before: Module, after: Module) -> dict[str, str]:
    told = {}
    for moe in moe_layers(before):
        trimmed = next(
            (n for n in (moe.name, moe.layer) if isinstance(dict(after.named_modules()).get(n), Trimmed)),
            None,
        )
        new = None if trimmed else after.get_submodule(moe.name)
        if trimmed is not None:
            told[moe.name] = "taken out" if trimmed == moe.name else "taken out, with its decoder layer"
        elif isinstance(new, Condensed):
            told[moe.name] = f"condensed: {'shared expert and ' if moe.shared else ''}experts " + _listed(
                new.kept, new.alpha
            )
        else:
            assert new is not None
            tied = next((m for m in new.modules() if isinstance(m, Tied)), None)
            kept: Any = next((m.kept for m in new.modules() if hasattr(m, "kept")), None)
            if tied is not None:
                told[moe.name] = f"{moe.count} experts merged into {int(tied.places.max()) + 1}"
            elif kept is not None and len(kept) < moe.count:
                told[moe.name] = f"experts kept: {', '.join(map(str, kept))} of {moe.count}"
            else:
                told[moe.name] = "as it was"
    return told


def _listed(kept: Sequence[int], alpha: Sequence[float]) -> str:
    return ", ".join(f"{e} ({a:.3f})" for e, a in zip(kept, alpha, strict=True)) or "none"


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


def _size(model: Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _bytes(model: Module) -> float:
    return sum(p.numel() * p.element_size() for p in model.parameters()) / 2**20
