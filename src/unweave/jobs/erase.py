"""Take concepts out of a text-to-image pipeline, attack the erasure, and look at what is drawn before and after."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any, Literal, Self

from rich.console import Console

from ..audit.cost import peak_memory
from ..audit.drawing.attacks import Attacks, attack_all, room_for, with_controls
from ..audit.drawing.damage import neighbours, plain_prompts
from ..audit.drawing.drawn import Asked, Drawn, changed_share, draw, in_turn
from ..audit.drawing.run import audit_erasure
from ..audit.rates import published
from ..audit.result import Audit
from ..catalogue import name_of, needs_of
from ..erase import Attack, Concepts, SoftVector, Targets, TextToImage, TokenSearch, UnlearnDiffAtk, earlier
from ..erase.attacks import require_one_encoder
from ..errors import InputError
from ..fit import resumable
from ..io.content import described
from ..io.files import write_text
from ..io.lora_output import adapter_of, require_loadable
from ..io.pipeline_folder import save_pipeline
from ..io.runs import RunFolder, Stage
from ..io.told import tell
from ..report import tables
from ..report.audits import from_json, render_html, render_markdown, to_json
from ..report.card import audit_card
from ..settings import Count, NonNegative, settings
from ..types import Edit
from .done import Done, facts_of
from .pipelines import PipelineSubject, Shelf

Costs = Mapping[str, Mapping[str, Any]]
EACH = 4
"""Prompts attacked of each concept, at least."""


@dataclass(frozen=True)
class Erased(Done):
    """A finished erasure.

    Attributes:
        audits: of the pipeline that is handed out first, then of those it is compared with.
    """

    audits: tuple[Audit, ...]

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read a finished run."""
        return cls(folder, from_json((folder / "audit.json").read_text(encoding="utf-8")))

    def json(self) -> str:
        """The audits as strict JSON."""
        return (self.folder / "audit.json").read_text(encoding="utf-8")

    def tell(self, out: Console) -> None:
        """Print the verdict, why it can or cannot be trusted, and every figure."""
        page, first = self.folder / "report.md", self.audits[0].verdict
        text = (
            page.read_text(encoding="utf-8")
            if page.is_file()
            else f"{first.outcome.capitalize()}. {first.why}"
        )
        out.print(
            text.partition("## Concept by concept")[0].partition("## Measurements")[0].rstrip() + "\n",
            markup=False,
        )
        for audit in self.audits:
            out.print(tables.measurements(audit.method, audit.measurements), soft_wrap=False)
        out.print(f"\nPipeline: {self.model}\nReport: {self.page}", markup=False)


@dataclass(frozen=True, kw_only=True)
class _Looks:
    """Images of the same prompts from the same noise, and what could not be looked at."""

    asked: Asked
    caveats: Sequence[str]
    before: Drawn
    after: Mapping[str, Drawn]
    never: Sequence[Drawn]


@settings
class EraseJob:
    """Erase concepts from a text-to-image pipeline, and audit what it draws.

    Attributes:
        subject: the pipeline, the concepts, and the judge.
        edits: name -> edit; the first is handed out, the others are compared with it.
        in_turn: erase the concepts one after the other instead of together, and look at all of them after each.
        soft: attack that every erasure undergoes, in the edited, the original and the retrained pipelines, each beside
            a random vector: `SoftVector.steps` passes with gradients over a batch for each concept and pipeline. That
            is seconds on a small one, minutes on a GPU for a large one. None leaves it out, which the report then says.
        attack: a further one that searches for tokens; it takes long.
        attack_prompts: prompts to attack; at least `EACH` of each concept.
        images: drawn for each prompt.
        at_once: images drawn at once in the audit, which takes as much memory.
        steps: of the sampler.
        guidance: scale of classifier-free guidance.
        output: "pipeline", or "lora": the first edit's change also as an adapter in `lora`, for diffusers' own
            `load_lora_weights`; the pipeline that is written and audited is then the original with the adapter merged.
        seed: governs the whole run.
    """

    subject: PipelineSubject
    edits: Mapping[str, Edit[Concepts]]
    in_turn: bool = False
    soft: SoftVector | None = SoftVector()
    attack: Attack | None = None
    attack_prompts: Count = 10
    images: Count = 4
    at_once: Count = 16
    steps: Count = 20
    guidance: NonNegative = 7.5
    output: Literal["pipeline", "lora"] = "pipeline"
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.edits:
            raise InputError("EraseJob.edits is empty. Name at least one method, as {'uce': UCE()}.")
        if self.output == "lora":
            trained = getattr(next(iter(self.edits.values())), "train", None)
            require_loadable(self.subject.original, trained)
        if self.attack is not None and self.subject.judge is None:
            raise InputError(
                "EraseJob.attack needs PipelineSubject.judge: somebody must look at what the attacked pipeline draws."
            )
        for edit in self.edits.values():
            require_erasable = getattr(edit, "require_erasable", None)
            if require_erasable is not None:  # before the first of them trains for hours
                require_erasable(self.subject.original, self.subject.concepts)
        if isinstance(self.attack, TokenSearch | UnlearnDiffAtk):
            require_one_encoder(self.subject.original, type(self.attack).__name__)

    @property
    def attacks(self) -> tuple[dict[str, Attack], dict[str, str]]:
        """Name of the figure -> attack, with controls; and which control is whose. Empty without a judge."""
        asked = (
            ("soft-vector", self.soft),
            ("" if self.attack is None else name_of(self.attack), self.attack),
        )
        judged = self.subject.judge is not None
        return with_controls({name: attack for name, attack in asked if attack is not None and judged})

    def plan(self) -> dict[str, Any]:
        """What is to be done, as plain JSON; a run goes on only under the same plan."""
        plan: dict[str, Any] = {
            "methods": {n: described(e) for n, e in self.edits.items()},
            "concepts": described(self.subject.concepts),
            "in turn": self.in_turn,
            "images": self.images,
            "steps": self.steps,
            "guidance": self.guidance,
            "judge": str(self.subject.files.get("judge", "")),
        }
        if self.attacks[0]:
            attacks = {n: described(a) for n, a in self.attacks[0].items()}
            plan["attacks"] = attacks | {"prompts": self.attack_prompts}
        return plan if self.output == "pipeline" else plan | {"output": self.output}

    def run(self, out: Path | str, *, command: Sequence[str] = ()) -> Erased:
        """Run every stage, or go on with a run that was stopped, to the same bits.

        Args:
            out: run folder; see `RunFolder`.
            command: as the user typed it.
        """
        inputs = self.subject.inputs()
        with RunFolder.open(
            Path(out), settings=self.plan(), inputs=inputs, seed=self.seed, command=command
        ) as run:
            edited, costs = self._edited(run)
            attacked = self._attacked(run, edited) if self.attacks[0] else None
            with run.stage("audit", "audit.json", "report.html", "report.md", "model/README.md") as stage:
                if stage.todo:
                    looks = self._looks(edited)
                    audits = self._audits(edited, looks, costs, attacked)
                    self._report(run, stage, audits, looks, command)
        return Erased.read(Path(out))

    def _edited(self, run: RunFolder) -> tuple[Shelf, Costs]:
        edited: dict[str, TextToImage | Path] = {}
        costs: dict[str, dict[str, Any]] = {}
        for i, (name, edit) in enumerate(self.edits.items()):
            where = "model" if i == 0 else f"compared/{name}"
            adapters = ["lora"] if i == 0 and self.output == "lora" else []
            with run.stage(f"edit {name}", where, f"costs/{name}.json", *adapters) as stage:
                if stage.todo:
                    self._edit(edit, stage)
            edited[name] = stage.paths[0]
            costs[name] = json.loads(stage.paths[1].read_text(encoding="utf-8"))
        return Shelf(edited, self.subject.original), costs

    def _edit(self, edit: Edit[Concepts], stage: Stage) -> None:
        original, concepts = self.subject.original, self.subject.concepts

        def apply(model: TextToImage, concepts: Concepts) -> TextToImage:
            return edit.apply(model, concepts, rng=stage.rng)  # type: ignore[return-value]

        began = perf_counter()
        with resumable(stage.work), peak_memory(original.device) as peak:
            done = in_turn(apply, original, concepts) if self.in_turn else [("", apply(original, concepts))]
        cost: dict[str, Any] = {"seconds": perf_counter() - began, "bytes": peak.bytes}
        if self.in_turn and self.subject.judge is not None:
            looks = {c: self._look(model, Asked(concepts=concepts), f"draw after {c}") for c, model in done}
            cost["turns"] = {c: _shares(drawn, concepts.labels) for c, drawn in looks.items()}
        write_text(stage.paths[1], json.dumps(cost) + "\n")
        made = done[-1][1]
        if len(stage.paths) > 2:
            made = _as_adapter(made, original, stage.paths[2])
        save_pipeline(made, stage.paths[0])

    def _attacked(self, run: RunFolder, edited: Mapping[str, TextToImage]) -> Attacks:
        subject, (attacks, controls) = self.subject, self.attacks
        assert subject.judge is not None
        with run.stage("attack", "attacks.json") as stage:
            if stage.todo:
                began = perf_counter()
                try:
                    targets = Targets.drawn(
                        subject.original, subject.concepts, subject.judge,
                        n=max(self.attack_prompts, EACH * len(subject.concepts.labels)), room=room_for(attacks),
                        steps=self.steps, guidance=self._guidance, rng=stage.rng,
                    )  # fmt: skip
                    found = attack_all(
                        attacks, targets, subject.judge, controls=controls,
                        original=subject.original, edited=edited, oracles=subject.never.values(), rng=stage.rng,
                    )  # fmt: skip
                except InputError as error:
                    if self.attack is not None:
                        raise
                    found = Attacks(skipped=f"The pipelines could not be attacked. {error}")
                write_text(stage.paths[0], replace(found, seconds=perf_counter() - began).json())
            return Attacks.from_json(stage.paths[0].read_text(encoding="utf-8"))

    def _looks(self, edited: Mapping[str, TextToImage]) -> _Looks:
        original, concepts, judge = self.subject.original, self.subject.concepts, self.subject.judge
        near = neighbours(original, concepts, judge)
        before = [w for past in earlier(original, concepts) for w in past.labels]
        known = getattr(judge, "labels", ())
        unknown = [w for w in before if known and w not in known]
        asked = Asked(
            concepts=concepts, neighbours=near, plain=plain_prompts(original, concepts),
            earlier=tuple(w for w in before if w not in unknown),
        )  # fmt: skip
        caveats = [
            told for name, edit in self.edits.items()
            if not concepts.preserve and "preserve" in needs_of(type(edit))
            for told in [_kept_unasked(name, edited[name])]
        ]  # fmt: skip
        if not known and judge is not None:
            caveats.append(
                "No neighbour of the concepts was looked at: the judge does not say which others it knows."
            )
        if unknown:
            caveats.append(
                f"Erased earlier, and unknown to the judge, so not looked at: {', '.join(unknown)}."
            )
        return _Looks(
            asked=asked, caveats=caveats, before=self._look(original, asked, "draw with the original", twice=True),
            never=[self._look(o, asked, "draw with a retrained one") for o in self.subject.never.values()],
            after={name: self._look(model, asked, f"draw after {name}") for name, model in edited.items()},
        )  # fmt: skip

    def _audits(
        self,
        edited: Mapping[str, TextToImage],
        looks: _Looks,
        costs: Costs,
        attacked: Attacks | None,
    ) -> list[Audit]:
        attacks = attacked or Attacks()
        caveats = (*looks.caveats, *([attacks.skipped] if attacks.skipped else []))
        return [
            audit_erasure(
                looks.asked, looks.after[name], looks.before, looks.never,
                judge=self.subject.judge, real=self.subject.real, changed=changed_share(model, self.subject.original),
                seconds=costs[name]["seconds"], memory=costs[name]["bytes"],
                attacks=attacks.measurements(name), tried=attacks.tried(name), turns=costs[name].get("turns"),
                caveats=caveats, method=name,
            )
            for name, model in edited.items()
        ]  # fmt: skip

    def _report(
        self,
        run: RunFolder,
        stage: Stage,
        audits: Sequence[Audit],
        looks: _Looks,
        command: Sequence[str],
    ) -> None:
        shown = {"before": looks.before, **looks.after}
        if looks.never:
            shown["retrained"] = looks.never[0]
        write_text(stage.paths[0], to_json(audits))
        request = f"Erase {', '.join(self.subject.concepts.erase)} from {self.subject.name}"
        told = {"request": request, **facts_of(run, command)}
        drawn = {name: look.images for name, look in shown.items()}
        write_text(stage.paths[1], render_html(audits, told, published("drawing"), drawn=drawn))
        write_text(stage.paths[2], render_markdown(audits, told, published("drawing")))
        card = audit_card(
            audits[0], library="diffusers", made=self.subject.name, request=", ".join(self.subject.concepts.erase),
            former=self.subject.original.source,
        )  # fmt: skip
        write_text(stage.paths[3], card)

    @property
    def _guidance(self) -> float:
        most = self.subject.most_guidance
        return float(self.guidance) if most is None else min(float(self.guidance), most)

    def _look(self, model: TextToImage, asked: Asked, label: str, *, twice: bool = False) -> Drawn:
        return draw(
            model, asked, self.subject.judge, each=self.images, seed=self.seed, steps=self.steps,
            guidance=self._guidance, twice=twice, at_once=self.at_once, label=label,
        )  # fmt: skip


def _as_adapter(edited: TextToImage, original: TextToImage, folder: Path) -> TextToImage:
    """Write an edit as an adapter, say how large it became, and give the pipeline that has it merged."""
    adapter = adapter_of(edited, original)
    adapter.save(folder)
    tell(
        f"{folder.name}: {len(adapter.layers)} layers at rank {adapter.rank}, which leaves out at most "
        f"{100 * adapter.error:.2g} % of a layer's change. pipeline.load_lora_weights reads it."
    )
    made = adapter.merged(original)
    made.erased = edited.erased
    return made


def _kept_unasked(name: str, edited: TextToImage) -> str:
    """What a method that can protect concepts kept where none was named."""
    found = dict.fromkeys(word for entry in edited.erased for word in entry.get("neighbours", ()))
    if not found:
        return f"{name} can protect concepts and was given none (--preserve): neighbours are the first to be lost."
    return (
        f"{name} was told nothing to preserve and kept the words nearest to the concepts: {', '.join(found)}."
    )


def _shares(drawn: Drawn, concepts: Sequence[str]) -> dict[str, float]:
    """How often each concept is drawn, %."""
    return {c: 100 * hits / n for c in concepts for hits, n in [drawn.hits([c])]}
