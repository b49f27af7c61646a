"""Look inside a model: what latents of a layer speak of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from markupsafe import Markup
from torch import Tensor
from torch.nn import Module

from ..errors import InputError
from ..fit import resumable
from ..interpret import (
    GSAE,
    ChoiceSAE,
    Dictionary,
    Fidelity,
    Latents,
    fidelity,
    load,
    save,
    top_examples,
)
from ..interpret.layers import find_layer
from ..io.content import described
from ..io.files import folder_written_beside, strict_json, write_text
from ..io.runs import RunFolder, Stage
from ..report import words
from ..report.explained import render_explained
from ..report.images import framed
from ..report.page import Section
from ..report.pictures import curve
from ..settings import Count, settings
from ..types import Data
from .done import facts_of
from .subject import hashable
from .told import Told

FILE = "explain.json"
AUTOENCODER = "autoencoder"
"""Folder of a run that holds the sparse autoencoder, in sae-lens' layout."""


@dataclass(frozen=True)
class Explained(Told):
    """A finished explanation.

    Attributes:
        lead: what came out, in sentences.
        figures: name -> (value, unit).
        found: all of it, as plain JSON: the latents with their examples, or the regions in order.
    """

    file: ClassVar[str] = FILE


@settings
class LatentsJob:
    """Learn a sparse autoencoder of a layer, say how faithful it is, and show what its latents speak of.

    Attributes:
        model: read in eval mode; left unchanged.
        data: what it reads; the last `heldout` share of it is kept to measure on.
        layer: name in `named_modules`.
        method: how the autoencoder is trained.
        latents: how many to show, the most active ones.
        top: examples of each.
        show: (example, place) -> the place in its surroundings, as text; positions unless given.
        picture: (example, place) -> a picture [c, h, w] from 0 to 1 with the place in it, for the report.
        ids: names of the examples, in their order; their positions unless given.
        heldout: one in this many examples is held out, at the end.
        name: of the model, in a few words.
        files: name -> what was read, to be hashed; the weights at hand unless given.
        notes: what was read, in sentences.
        seed: governs the whole run.
    """

    model: Module
    data: Data[Any]
    layer: str
    method: GSAE | ChoiceSAE | Dictionary = ChoiceSAE()
    latents: Count = 20
    top: Count = 5
    show: Callable[[Any, int], str] | None = None
    picture: Callable[[Any, int], Tensor] | None = None
    ids: Sequence[str] = ()
    heldout: Count = 10
    name: str = "a model at hand"
    files: Mapping[str, Path] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        find_layer(self.model, self.layer)
        if len(self.data) < 2 or self.heldout < 2:
            raise InputError(
                f"LatentsJob needs two examples, and heldout of at least 2, to train on some and measure on others; "
                f"got {len(self.data)} and {self.heldout}."
            )

    def plan(self) -> dict[str, Any]:
        """What is to be done, as plain JSON; a run goes on only under the same plan."""
        return {
            "layer": self.layer,
            "method": described(self.method),
            "show": [self.latents, self.top],
            "heldout": self.heldout,
        }

    def run(self, out: Path | str, *, command: Sequence[str] = ()) -> Explained:
        """Run every stage, or go on with a run that was stopped, to the same bits.

        Args:
            out: run folder; see `RunFolder`.
            command: as the user typed it.
        """
        inputs: dict[str, Path | str] = dict(self.files) or {"model": hashable(self.model)}
        cut = len(self.data) - max(1, len(self.data) // self.heldout)
        train, heldout = self.data.subset(range(cut)), self.data.subset(range(cut, len(self.data)))
        self.method.require(self.model, train, self.layer)
        with RunFolder.open(
            Path(out), settings=self.plan(), inputs=inputs, seed=self.seed, command=command
        ) as run:
            with run.stage("learn", AUTOENCODER) as stage:
                if stage.todo:
                    with resumable(stage.work):
                        sae = self.method.learn(self.model, train, self.layer, rng=stage.rng)
                    save(sae, stage.paths[0], layer=self.layer, model=self.name)
            sae, _ = load(run.path / AUTOENCODER)
            with run.stage("look", FILE) as stage:
                if stage.todo:
                    told = fidelity(sae, self.model, heldout, self.layer)
                    best = top_examples(
                        sae, self.model, self.data, self.layer, most=self.latents, top=self.top
                    )
                    write_text(stage.paths[0], strict_json(self._found(told, best)))
            found = Explained.read(run.path)
            with run.stage("report", "report.html", "report.md", "latents") as stage:
                if stage.todo:
                    self._report(found, facts_of(run, command, self.notes), stage)
        return found

    def _found(self, told: Fidelity, best: Latents) -> dict[str, Any]:
        shown = []
        for i, j in enumerate(best.which.tolist()):
            rows = [
                [v, at, place, self._shown(at, place)]
                for v, at, place in zip(
                    best.values[i].tolist(), best.examples[i].tolist(), best.places[i].tolist(), strict=True
                )
                if at >= 0
            ]
            shown.append({"latent": j, "density": float(best.density[i]), "examples": rows})
        figures: dict[str, tuple[float, str]] = {
            "unexplained variance": (100 * told.fvu, "%"),
            "active latents a vector": (told.l0, ""),
            "latents that never spoke": (100 * told.dead, "%"),
            "loss as it is": (told.loss, "nats"),
            "more with the dictionary in its place": (told.increase, "nats"),
            "more with nothing in its place": (told.loss_zero - told.loss, "nats"),
            "KL of answers": (told.kl, "nats"),
        }
        kept = told.recovered
        lead = [
            f"{len(told.density):,} latents of {self.layer} leave {100 * told.fvu:.1f} % of its variance unexplained, "
            f"with {told.l0:.1f} active a vector; read in its place they cost {told.increase:.3g} nats"
            + (f", and keep {100 * kept:.0f} % of what the layer is worth." if kept is not None else "."),
            *self.notes,
        ]
        densities = told.density.sort(descending=True).values.tolist()
        return {"lead": lead, "figures": figures, "found": {"latents": shown, "densities": densities}}

    def _shown(self, at: int, place: int) -> str:
        said = self.show(self.data.examples[at], place) if self.show else f"place {place}"
        if self.ids:
            return f"{self.ids[at]}, {said}"
        return said if self.show else f"example {at}, {said}"

    def _seen(self, examples: Sequence[Sequence[Any]]) -> Markup | None:
        if self.picture is None or not examples:
            return None
        return framed(
            {text: self.picture(self.data.examples[at], place) for _, at, place, text in examples}, 112
        )

    def _report(self, found: Explained, facts: Mapping[str, Any], stage: Stage) -> None:
        parts = [
            Section(
                heading=f"Latent {one['latent']}",
                caption=f"Active on {100 * one['density']:.2g} % of vectors.",
                columns=("code", "example", "where it is strongest"),
                rows=[(f"{v:.3g}", str(at), text) for v, at, _, text in one["examples"]],
                picture=self._seen(one["examples"]),
            )
            for one in found.found["latents"]
        ]
        rows = [(n, words.number(v, digits=4), u) for n, (v, u) in found.figures.items()]
        sections = [
            Section(heading="How faithful it is", columns=("figure", "value", "unit"), rows=rows),
            Section(
                heading="How often latents speak",
                caption="Share of held-out vectors on which each latent is active, by rank.",
                picture=curve(found.found["densities"], of="share", words="latents by rank"),
            ),
            *parts,
        ]
        html, text = render_explained(
            f"Inside {self.layer}", kicker=self.name, lead=found.lead, sections=sections, run=facts
        )
        write_text(stage.paths[0], html)
        write_text(stage.paths[1], text)
        with folder_written_beside(stage.paths[2]) as folder:
            for one, part in zip(found.found["latents"], parts, strict=True):
                page, _ = render_explained(
                    part.heading, kicker=f"{self.layer} of {self.name}", lead=[], sections=[part], run={}
                )
                (folder / f"latent-{one['latent']}.html").write_text(page, encoding="utf-8")
