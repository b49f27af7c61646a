"""Take whole layers out of a text-to-image pipeline, train on, and look at what it draws before and after."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from rich.console import Console

from ..errors import InputError
from ..fit import resumable
from ..generate import CFG, LaptopDiff, Pictures, draw
from ..io.content import described
from ..io.files import write_text
from ..io.pipeline_folder import load_pipeline, save_pipeline
from ..io.runs import RunFolder, Stage
from ..models.text_to_image import TextToImage
from ..random import seeded
from ..report import words
from ..report.images import grids
from ..report.page import Section, render_page
from ..settings import Count, settings
from .done import Done, facts_of
from .subject import hashable


@dataclass(frozen=True)
class Shrunk(Done):
    """A pipeline without the layers that it needed least.

    Attributes:
        figures: name -> (before, after, unit).
        removed: units that went, with their own effect on the output.
        notes: sentences on the choice.
    """

    figures: Mapping[str, tuple[float, float, str]]
    removed: Mapping[str, float]
    notes: Sequence[str]

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read a finished run."""
        told = json.loads((folder / "prune.json").read_text(encoding="utf-8"))
        figures = {n: (b, a, u) for n, (b, a, u) in told["figures"].items()}
        return cls(folder, figures, told["removed"], told["notes"])

    def json(self) -> str:
        """The figures as strict JSON."""
        return (
            json.dumps(
                {"figures": self.figures, "removed": self.removed, "notes": list(self.notes)}, indent=1
            )
            + "\n"
        )

    def tell(self, out: Console) -> None:
        """Print what went and every figure before and after."""
        for name, (before, after, unit) in self.figures.items():
            old, new = words.number(before, digits=4), words.number(after, digits=4)
            out.print(f"  {name:34} {old:>12} -> {new:<12} {unit}", markup=False)
        out.print(f"Removed: {', '.join(self.removed)}", markup=False)
        for note in self.notes:
            out.print(note, markup=False)
        out.print(f"Pipeline: {self.model}\nReport: {self.page}", markup=False)


@settings
class ShrinkPipelineJob:
    """Remove whole layers of a pipeline's denoiser.

    Attributes:
        pipeline: left unchanged; the teacher.
        prompts: what it draws the pictures of that choose and train.
        method: how.
        pictures: drawn to choose and to train on.
        steps: of the sampler that draws.
        guidance: scale of classifier-free guidance of the pictures in the report.
        seed: governs the whole run.
        name: of the pipeline, for the report.
    """

    pipeline: TextToImage
    prompts: tuple[str, ...]
    method: LaptopDiff = LaptopDiff()
    pictures: Count = 256
    steps: Count = 20
    guidance: float = 7.5
    seed: int = 0
    name: str = "a pipeline at hand"

    def __post_init__(self) -> None:
        if not self.prompts:
            raise InputError(
                "ShrinkPipelineJob.prompts is empty: the pipeline draws pictures of them to choose by."
            )

    def plan(self) -> dict[str, Any]:
        """What is to be done, as plain JSON; a run goes on only under the same plan."""
        return {
            "method": described(self.method), "prompts": list(self.prompts), "pictures": self.pictures,
            "steps": self.steps, "guidance": self.guidance,
        }  # fmt: skip

    def run(self, out: Path | str, *, command: Sequence[str] = ()) -> Shrunk:
        """Run every stage, or go on with a run that was stopped.

        Args:
            out: run folder; see `RunFolder`.
            command: as the user typed it.
        """
        source = self.pipeline.source
        inputs = {"pipeline": hashable(self.pipeline) if source is None else source}
        with RunFolder.open(
            Path(out), settings=self.plan(), inputs=inputs, seed=self.seed, command=command
        ) as run:
            with run.stage("prune", "model", "prune.json") as stage:
                if stage.todo:
                    self._prune(stage)
            found = Shrunk.read(run.path)
            with run.stage("report", "report.html") as stage:
                if stage.todo:
                    write_text(stage.paths[0], self._page(found, run, command))
        return found

    def _prune(self, stage: Stage) -> None:
        model, method, notes = self.pipeline, self.method, list[str]()
        with resumable(stage.work), warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            shown = Pictures.drawn(model, self.prompts, self.pictures, rng=stage.rng, steps=self.steps)
            choice = method.choose(model, shown, rng=stage.rng)
            small = method.retrained(model, choice, shown, rng=stage.rng)
        notes += [str(w.message) for w in said if issubclass(w.category, UserWarning)]
        notes.append(
            f"Their own effects on the output add up to {choice.predicted:.3g}; all gone together it is "
            "{choice.joint:.3g}, "
            "before training on."
        )
        save_pipeline(small, stage.paths[0])
        again = load_pipeline(stage.paths[0], device=str(model.device))
        total, left = (float(sum(p.numel() for p in m.denoiser.parameters())) for m in (model, again))
        figures = {
            "parameters of the denoiser": (total, left, ""),
            "share kept": (100.0, 100 * left / total, "%"),
            "change of the output, removed alone": (0.0, choice.joint, "mean square"),
            "change of what is drawn": (0.0, self._apart(model, again), "mean square"),
        }
        removed = {u.name: choice.losses[u.name] for u in choice.removed}
        write_text(stage.paths[1], Shrunk(stage.paths[1].parent, figures, removed, notes).json())

    def _apart(self, model: TextToImage, small: TextToImage) -> float:
        pictures = [self._drawn(m) for m in (model, small)]
        return float((pictures[0] - pictures[1]).float().square().mean())

    def _drawn(self, model: TextToImage) -> torch.Tensor:
        return draw(
            model, self.prompts[:8], guidance=CFG(scale=self.guidance), steps=self.steps, rng=seeded(self.seed)
        )  # fmt: skip

    def _page(self, found: Shrunk, run: RunFolder, command: Sequence[str]) -> str:
        small = load_pipeline(found.model, device=str(self.pipeline.device))
        both = {"before": self._drawn(self.pipeline), "after": self._drawn(small)}
        shown = {
            name: {p: images[i : i + 1].cpu() for i, p in enumerate(self.prompts[:8])}
            for name, images in both.items()
        }
        cells = [
            (n, words.number(b, digits=4), words.number(a, digits=4), u)
            for n, (b, a, u) in found.figures.items()
        ]
        sections = [
            Section(heading="Before and after", columns=("figure", "before", "after", "unit"), rows=cells),
            Section(
                heading="What was removed", columns=("layers", "own effect on the output, mean square"),
                rows=[(name, f"{loss:.3g}") for name, loss in found.removed.items()],
            ),
            Section(heading="What it draws", caption="The same noise before and after.", picture=grids(shown)),
        ]  # fmt: skip
        kept = found.figures["share kept"][1]
        lead = f"{kept:.0f} % of the denoiser's parameters are left; plain diffusers reads the folder."
        return render_page(
            "A smaller pipeline", kicker=f"laptop-diff on {self.name}", lead=[lead, *found.notes], sections=sections,
            run=facts_of(run, command),
        )  # fmt: skip
