"""Look at an answer: which regions of a picture it rests on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from ..interpret import (
    SMDL,
    Explanation,
    Viewer,
    occlusion,
    trace,
)
from ..interpret.viewer import Prepare
from ..io.content import described
from ..io.files import folder_written_beside, strict_json, write_text
from ..io.runs import RunFolder, Stage
from ..report import words
from ..report.explained import render_explained
from ..report.images import framed, heat, png
from ..report.page import Section
from ..report.pictures import curve
from ..settings import settings
from .done import facts_of
from .explain import FILE, Explained
from .subject import hashable


@settings
class RegionsJob:
    """Show which regions of a picture make a classifier say what it says, and, hidden, unmake it.

    Attributes:
        model: images [n, c, h, w] -> logits, or an object with `.logits`; left unchanged.
        image: [c, h, w] from 0 to 1.
        method: the search.
        target: class to explain; the model's own unless given. The true class, where the prediction is wrong.
        prepare: normalises images before the model reads them.
        class_names: by class; numbers unless given.
        name: of the model, in a few words.
        files: name -> what was read, to be hashed; model and image at hand unless given.
        seed: governs the whole run.
    """

    model: Module
    image: Tensor
    method: SMDL = SMDL()
    target: int | None = None
    prepare: Prepare | None = None
    class_names: tuple[str, ...] = ()
    name: str = "a model at hand"
    files: Mapping[str, Path] = field(default_factory=dict)
    seed: int = 0

    def plan(self) -> dict[str, Any]:
        """What is to be done, as plain JSON; a run goes on only under the same plan."""
        return {"method": described(self.method), "target": self.target}

    def run(self, out: Path | str, *, command: Sequence[str] = ()) -> Explained:
        """Run every stage, or go on with a run that was stopped.

        Args:
            out: run folder; see `RunFolder`.
            command: as the user typed it.
        """
        inputs: dict[str, Path | str] = dict(self.files) or {"model": hashable(self.model)}
        self.method.require(self.model, self.image, target=self.target, prepare=self.prepare)
        with RunFolder.open(
            Path(out), settings=self.plan(), inputs=inputs, seed=self.seed, command=command
        ) as run:
            with run.stage("explain", FILE, "pictures", "report.html", "report.md") as stage:
                if stage.todo:
                    found = self.method.explain(
                        self.model, self.image, target=self.target, prepare=self.prepare, rng=stage.rng
                    )
                    self._write(found, stage, facts_of(run, command))
            return Explained.read(run.path)

    def _write(self, found: Explanation, stage: Stage, facts: Mapping[str, Any]) -> None:
        write_text(stage.paths[0], strict_json(self._found(found)))
        pictures = self._pictures(found)
        with folder_written_beside(stage.paths[1]) as folder:
            for file, (_, picture) in pictures.items():
                (folder / file).write_bytes(png(picture))
        html, text = self._report(Explained.read(stage.paths[0].parent), found, pictures, facts)
        write_text(stage.paths[2], html)
        write_text(stage.paths[3], text)

    def _class(self, c: int) -> str:
        return self.class_names[c] if c < len(self.class_names) else f"class {c}"

    def _viewer(self, found: Explanation) -> Viewer:
        return Viewer.of(
            self.model, self.image, found.regions, fill=self.method.fill, prepare=self.prepare,
            batch_size=self.method.batch_size,
        )  # fmt: skip

    def _found(self, found: Explanation) -> dict[str, Any]:
        beside = trace(self._viewer(found), occlusion(self._viewer(found), found.target), found.target)
        target, said = self._class(found.target), self._class(found.predicted)
        r, best = found.best()
        lead = [
            f"The model says {said}; {target} has {100 * found.probability:.1f} %."
            if found.predicted != found.target
            else f"The model says {said}, with {100 * found.probability:.1f} %.",
            f"With {r} of {int(found.regions.max()) + 1} regions alone ({100 * float(found.revealed[r]):.0f} % of the "
            f"picture) {target} has {100 * best:.1f} %; with nothing shown it has {100 * found.empty:.1f} %.",
        ]
        if found.predicted != found.target:
            n = found.repaired
            lead.append(
                f"No first regions alone make the model say {target}."
                if n is None
                else f"The first {n} regions alone make the model say {target}: the rest is what misleads it."
            )
        figures = {
            "insertion, area under the curve": (found.insertion_area, ""),
            "deletion, area under the curve": (found.deletion_area, ""),
            "insertion in the order of occlusion": (beside.insertion_area, ""),
            "deletion in the order of occlusion": (beside.deletion_area, ""),
        }
        steps = [
            [int(i), float(a), float(p), float(q), self._class(int(c))]
            for i, a, p, q, c in zip(
                found.order,
                found.revealed[1:],
                found.insertion[1:],
                found.deletion[1:],
                found.says[1:],
                strict=True,
            )
        ]
        return {
            "lead": lead,
            "figures": figures,
            "found": {"target": found.target, "predicted": found.predicted, "steps": steps, "best": r},
        }

    def _pictures(self, found: Explanation) -> dict[str, tuple[str, Tensor]]:
        r = max(1, found.best()[0])
        keep = torch.zeros(1, int(found.regions.max()) + 1, dtype=torch.bool)
        keep[0, found.order[:r]] = True
        viewer = self._viewer(found)
        return {
            "image.png": ("the picture", self.image),
            "saliency.png": ("regions by rank, first ones bright", heat(self.image, found.saliency())),
            "shown.png": (f"the first {r} alone", viewer.shown(keep)[0]),
            "hidden.png": ("without them", viewer.shown(~keep)[0]),
        }

    def _report(
        self,
        done: Explained,
        found: Explanation,
        pictures: Mapping[str, tuple[str, Tensor]],
        facts: Mapping[str, Any],
    ) -> tuple[str, str]:
        target = self._class(found.target)
        rows = [(n, words.number(v, digits=4), u) for n, (v, u) in done.figures.items()]
        steps = [
            (str(i), f"{100 * a:.0f} %", f"{100 * p:.1f} %", f"{100 * q:.1f} %", said)
            for i, a, p, q, said in done.found["steps"]
        ]
        sections = [
            Section(heading="The regions", picture=framed(dict(pictures.values()))),
            Section(
                heading="Shown one after the other",
                caption=f"Probability of {target} as regions are shown. The search climbs this very curve.",
                picture=curve(found.insertion.tolist(), of="probability", words="regions shown"),
            ),
            Section(
                heading="Hidden one after the other",
                caption=f"Probability of {target} as the same regions are hidden.",
                picture=curve(found.deletion.tolist(), of="probability", words="regions hidden"),
            ),
            Section(heading="Figures", columns=("figure", "value", "unit"), rows=rows),
            Section(
                heading="Step by step",
                columns=("region", "shown", f"{target}, shown alone", f"{target}, without", "says, shown alone"),
                rows=steps,
            ),
        ]  # fmt: skip
        return render_explained(
            f"Why {target}?", kicker=self.name, lead=done.lead, sections=sections, run=facts,
            pictures={caption: f"pictures/{file}" for file, (caption, _) in pictures.items()},
        )  # fmt: skip
