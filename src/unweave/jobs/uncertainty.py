"""Ask a language model to classify texts by examples; say what it is unsure of, and whether that tells errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import Module

from ..errors import InputError
from ..io.content import described
from ..io.files import strict_json, write_text
from ..io.labelled import read_labelled
from ..io.runs import RunFolder
from ..language import UQICL, LabelPrompts, Uncertainty, detection, selective
from ..language.uq_icl import Prompts, Selective
from ..report import words
from ..report.curves import Point, curves
from ..report.explained import render_explained
from ..report.page import Section
from ..settings import settings
from .done import facts_of
from .subject import hashable
from .told import Told

FILE = "uncertainty.json"
_SHOWN, _PLACES, _LONG = 15, 20, 160
_MEANING = {
    "within demonstrations": "left once the demonstrations are fixed; the paper calls it epistemic, its code aleatoric",
    "between demonstrations": "how much the sets disagree; the paper calls it aleatoric, its code epistemic",
    "between orders": "how much orders of the same demonstrations disagree",
    "total": "the sum of the parts",
    "semantic entropy": "entropy over the labels after one set of demonstrations",
    "log-probability": "minus that of the answer after one set of demonstrations",
}


@dataclass(frozen=True)
class Unsure(Told):
    """What a model is unsure of, text by text.

    Attributes:
        lead: what came out, in sentences.
        figures: name -> (value, unit).
        found: all of it, as plain JSON: a row a text, and how well each score tells errors where labels are known.
    """

    file: ClassVar[str] = FILE


@settings
class UncertaintyJob:
    """Classify texts by examples in the prompt, divide the uncertainty, and see whether it tells errors.

    Attributes:
        model: a causal language model; left unchanged.
        prompts: how demonstrations and a text are put before it; see `LabelPrompts`.
        pool: demonstrations (text, class from 0) to draw from.
        texts: what to classify.
        right: class of each text, where it is known; () otherwise.
        method: how it is asked.
        names: of the labels.
        name: of the model, in a few words.
        files: name -> what was read, to be hashed; the model and texts at hand unless given.
        seed: governs the whole run.
    """

    model: Module
    prompts: Prompts
    pool: Sequence[Any]
    texts: Sequence[Any]
    right: tuple[int, ...] = ()
    method: UQICL = UQICL()
    names: tuple[str, ...] = ()
    name: str = "a model at hand"
    files: Mapping[str, Path] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.right and len(self.right) != len(self.texts):
            raise InputError(
                f"UncertaintyJob.right must be one class a text; got {len(self.right)} for {len(self.texts)} texts."
            )
        if not self.texts:
            raise InputError("UncertaintyJob.texts is empty. Give texts to classify.")

    def plan(self) -> dict[str, Any]:
        """What is to be done, as plain JSON; a run goes on only under the same plan."""
        told = getattr(self.prompts, "instruction", type(self.prompts).__name__)
        return {"method": described(self.method), "labels": list(self.names), "instruction": told}

    def run(self, out: Path | str, *, command: Sequence[str] = ()) -> Unsure:
        """Run every stage, or go on with a run that was stopped.

        Args:
            out: run folder; see `RunFolder`.
            command: as the user typed it.
        """
        inputs: dict[str, Path | str] = dict(self.files) or {"model": hashable(self.model)}
        with RunFolder.open(
            Path(out), settings=self.plan(), inputs=inputs, seed=self.seed, command=command
        ) as run:
            with run.stage("ask", FILE) as stage:
                if stage.todo:
                    asked = self.method.decompose(
                        self.model, self.pool, self.texts, self.prompts, rng=stage.rng
                    )
                    write_text(stage.paths[0], strict_json(self._found(asked, stage.rng)))
            found = Unsure.read(run.path)
            with run.stage("report", "report.html", "report.md") as stage:
                if stage.todo:
                    html, text = self._report(found, facts_of(run, command))
                    write_text(stage.paths[0], html)
                    write_text(stage.paths[1], text)
        return found

    def _found(self, asked: Uncertainty, rng: torch.Generator) -> dict[str, Any]:
        scores, said = asked.scores(), asked.prediction
        unit = "nats" if asked.scoring != "samples" else ""
        figures = {
            f"mean {name}": (float(v.mean()), unit) for name, v in scores.items() if name in _parts(scores)
        }
        figures["answers on none of the labels"] = (100 * float(asked.invalid.mean()), "%")
        lead = [
            f"{len(said):,} texts, each asked with {self.method.sets} sets of demonstrations: of {_two(asked.total)} "
            f"{unit or 'of variance'} of uncertainty {_two(asked.within_demo)} are left once the demonstrations are "
            f"fixed, and {_two(asked.between_demo)} come from their choice."
        ]
        outside = float(asked.invalid.mean())
        if outside > 0.5:
            lead.append(
                f"{100 * outside:.0f} % of what the model would say is none of the labels: it hardly follows the "
                "prompt, so its parts say little. Try other words for labels or instruction."
            )
        told: dict[str, Any] = {}
        if self.right:
            wrong = said != torch.tensor(self.right)
            share = 100 * float(wrong.double().mean())
            figures["errors"] = (share, "%")
            told = {name: self._told(score, wrong, rng) for name, score in scores.items()}
            if told["total"]["auroc"] is None:
                lead.append(f"{share:.0f} % of the answers are wrong, so no score can tell errors here.")
            else:
                half = selective(scores["total"], wrong).risk[(len(wrong) + 1) // 2 - 1]
                low, high = told["total"]["auroc interval"]
                word = "cannot tell errors" if high >= 0.5 else "ranks errors as the surest"
                verb = "tells errors" if low > 0.5 else word
                lead.append(
                    f"{share:.1f} % of the answers are wrong; of the surest half {100 * float(half):.1f} %. The total "
                    f"{verb}: AUROC {told['total']['auroc']:.2f} (95 % interval {low:.2f} to {high:.2f}; 0.5 tells "
                    "nothing)."
                )
            figures |= {f"AUROC, {n}": (t["auroc"], "") for n, t in told.items() if t["auroc"] is not None}
        rows = [
            {
                "text": _short(self.texts[i]),
                "says": self._class(int(said[i])),
                "probability": float(asked.probabilities[i, said[i]]),
                **({"right": self._class(self.right[i])} if self.right else {}),
                **{name: float(v[i]) for name, v in scores.items()},
                "between demonstrations, interval": asked.interval[i].tolist(),
                "none of the labels": float(asked.invalid[i]),
            }
            for i in range(len(said))
        ]
        return {"lead": lead, "figures": figures, "found": {"texts": rows, "scores": told}}

    def _told(self, score: Tensor, wrong: Tensor, rng: torch.Generator) -> dict[str, Any]:
        found, kept = detection(score, wrong, rng=rng), selective(score, wrong)
        return {
            "auroc": None if found is None else found.auroc,
            "auroc interval": None if found is None else found.auroc_interval,
            "aupr": None if found is None else found.aupr,
            "aupr interval": None if found is None else found.aupr_interval,
            "area": kept.area,
            "curve": _places(kept),
        }

    def _class(self, y: int) -> str:
        return self.names[y] if y < len(self.names) else f"class {y}"

    def _report(self, done: Unsure, facts: Mapping[str, Any]) -> tuple[str, str]:
        told, rows = done.found["scores"], done.found["texts"]
        sections = []
        if told:
            lines = {
                n: [Point(100 * c, 100 * r, (float("nan"),) * 2) for c, r in t["curve"]]
                for n, t in told.items()
            }
            sections += [
                Section(
                    heading="What is answered, and how often wrongly",
                    caption="Errors among the answers that are kept when the least sure ones are passed over. A "
                    "score that tells errors falls to the left; one that tells nothing stays level.",
                    picture=curves(lines, {}, unit="% wrong", words="% of texts answered, surest first"),
                ),
                Section(
                    heading="How well each score tells errors",
                    caption="AUROC: chance that a wrong answer scores higher than a right one, 0.5 tells nothing. "
                    "AUPR: average precision of wrong answers. 95 % bootstrap intervals.",
                    columns=("score", "AUROC", "AUPR", "area under the errors", "what it is"),
                    rows=[
                        (n, _with(t, "auroc"), _with(t, "aupr"), f"{t['area']:.3f}", _MEANING[n])
                        for n, t in told.items()
                    ],
                ),
            ]
        sections.append(
            Section(
                heading="Figures",
                columns=("figure", "value", "unit"),
                rows=[(n, words.number(v, digits=4), u) for n, (v, u) in done.figures.items()],
            )
        )
        sections.append(self._least_sure(rows))
        title = "What the model is unsure of"
        return render_explained(title, kicker=self.name, lead=done.lead, sections=sections, run=facts)

    def _least_sure(self, rows: Sequence[Mapping[str, Any]]) -> Section:
        most = sorted(rows, key=lambda row: -row["total"])[:_SHOWN]
        right = bool(self.right)
        return Section(
            heading="The least sure answers",
            caption=f"{len(most)} of {len(rows)}, by the total; all of them are in {FILE}. In brackets the 95 % "
            "interval over the sets that were drawn: a few sets leave it wide.",
            columns=("text", "says", *(("is",) if right else ()), "total", "within", "between"),
            rows=[
                (
                    row["text"], f"{row['says']} ({100 * row['probability']:.0f} %)",
                    *((row["right"],) if right else ()),
                    f"{row['total']:.3f}", f"{row['within demonstrations']:.3f}",
                    "{:.3f} [{:.3f}, {:.3f}]".format(
                        row["between demonstrations"], *row["between demonstrations, interval"]
                    ),
                )
                for row in most
            ],
        )  # fmt: skip


def open_uncertainty(
    folder: Path | str,
    *,
    demonstrations: Path | str,
    texts: Path | str,
    labels: Sequence[str] = (),
    instruction: str | None = None,
    verbaliser: Literal["digits", "names"] = "digits",
    method: UQICL | None = None,
    seed: int = 0,
) -> UncertaintyJob:
    """A job on a causal language model's folder.

    Args:
        folder: of transformers, with its tokenizer.
        demonstrations: .jsonl of {"text": ..., "label": ...}.
        texts: .jsonl of {"text": ...}, all with their label or none.
        labels: their order; that of the demonstrations' names, sorted, unless given.
        instruction: first words of every prompt; see `LabelPrompts`.
        verbaliser: whether the model answers by a label's number or its name.
        method: how it is asked; `UQICL()` unless given.
        seed: governs the whole run.

    Raises:
        InputError: if the folder holds no such model, a file cannot be read, or a label is none of those known.
    """
    from ..io.causal_lm import load_causal_lm
    from ..io.loading import read_tokenizer

    path, shown, asked = Path(folder), Path(demonstrations), Path(texts)
    pool, rows = read_labelled(shown, labels=True), read_labelled(asked, labels=False)
    names = list(labels) or sorted({row.label for row in pool})
    for file, found in ((shown, pool), (asked, rows)):
        other = next((row.label for row in found if row.label and row.label not in names), None)
        if other is not None:
            raise InputError(
                f"{file} has the label {other!r}, which is none of: {', '.join(names)}. Name all with labels."
            )
    prompts = LabelPrompts(read_tokenizer(path), names, instruction=instruction, verbaliser=verbaliser)
    method = method or UQICL()
    method.demonstrations([names.index(row.label) for row in pool], len(names), rng=torch.Generator())
    return UncertaintyJob(
        model=load_causal_lm(path), prompts=prompts, pool=[(row.text, names.index(row.label)) for row in pool],
        texts=[row.text for row in rows], right=tuple(names.index(row.label) for row in rows if row.label),
        method=method, names=tuple(names), name=f"{folder} on {asked.name}", seed=seed,
        files={"model": path, "demonstrations": shown, "texts": asked},
    )  # fmt: skip


def _parts(scores: Mapping[str, Tensor]) -> list[str]:
    return [name for name in scores if name not in ("semantic entropy", "log-probability")]


def _two(values: Tensor) -> str:
    return f"{float(values.mean()):.2g}"


def _short(text: Any) -> str:
    told = " ".join(str(text).split())
    return told if len(told) <= _LONG else f"{told[: _LONG - 1]}…"


def _places(kept: Selective) -> list[tuple[float, float]]:
    """A few points of a curve, (coverage, risk), the last at full coverage."""
    n = len(kept.coverage)
    at = sorted({max(1, round(n * k / _PLACES)) - 1 for k in range(1, _PLACES + 1)})
    return [(float(kept.coverage[i]), float(kept.risk[i])) for i in at]


def _with(told: Mapping[str, Any], name: str) -> str:
    if told[name] is None:
        return "–"
    low, high = told[f"{name} interval"]
    return f"{told[name]:.3f} ({low:.3f} to {high:.3f})"
