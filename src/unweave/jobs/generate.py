"""Draw from a text-to-image pipeline as it is and with better guidance, and tell both apart in pictures and figures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from time import perf_counter
from typing import Any, Self

import torch
from rich.console import Console
from torch import Tensor
from torch.nn import Module

from ..audit.drawing.drawn import Judge
from ..audit.drawing.looks import beside_real, looks
from ..catalogue import name_of
from ..errors import InputError, require
from ..generate import APG, CFG, Guidance, Projected, Rule, draw, extrapolated
from ..generate.drawing import Start, require_two_passes
from ..io.content import described
from ..io.files import write_text
from ..io.runs import RunFolder, Stage
from ..models.text_to_image import TextToImage
from ..models.text_to_image.one_step import require_steps
from ..random import seeded
from ..report import words
from ..report.images import grids, save_png
from ..report.markdown import table_lines
from ..report.page import Section, render_page
from ..settings import Count, settings
from .done import Done, facts_of
from .subject import hashable

Columns = Mapping[str, Mapping[str, float]]
"""How it was drawn -> figure -> value."""


@dataclass(frozen=True)
class Generated(Done):
    """Pictures drawn, with what was measured of them.

    Attributes:
        figures: "before" (plain guidance) and the method -> figure -> value.
        pictures: PNG files, relative to the folder, of the method's pictures.
        notes: sentences on how it was drawn.
    """

    figures: Columns
    pictures: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read a finished run."""
        told = json.loads((folder / "generate.json").read_text(encoding="utf-8"))
        return cls(folder, told["figures"], tuple(told["pictures"]), tuple(told["notes"]))

    def json(self) -> str:
        """The figures as strict JSON."""
        told = {"figures": self.figures, "pictures": list(self.pictures), "notes": list(self.notes)}
        return json.dumps(told, indent=1) + "\n"

    def tell(self, out: Console) -> None:
        """Print every figure, plain and with the method."""
        names = list(self.figures)
        out.print(f"  {'':44}" + "".join(f"{name:>16}" for name in names), markup=False)
        for figure in self.figures[names[0]]:
            cells = "".join(f"{words.number(self.figures[n][figure], digits=4):>16}" for n in names)
            out.print(f"  {figure:44}{cells}", markup=False)
        for note in self.notes:
            out.print(note, markup=False)
        where = self.folder / "images"
        out.print(f"Pictures: {len(self.pictures)} in {where}\nReport: {self.page}", markup=False)


@settings
class GenerateJob:
    """Draw prompts by classifier-free guidance and by another, from the same noise.

    Attributes:
        pipeline: left unchanged.
        prompts: what to draw.
        guidance: APG, or your own.
        images: of each prompt.
        steps: of the sampler.
        negative: prompt that guidance leads away from.
        start: where the sampler begins (`Informed`, of OMS); None begins at pure noise.
        auxiliary: to draw away from (`SIMS.apply`); None draws with the pipeline alone.
        away: how far, with an auxiliary.
        real: real pictures to measure against, [n, channels, height, width] between -1 and 1.
        judge: gives features for distances and names; its figures bear `judged`.
        judged: the judge's name. Name Inception's features "Inception": the distance is then FID.
        seed: of the noise.
        batch_size: pictures at once.
        name: of the pipeline, for the report.
    """

    pipeline: TextToImage
    prompts: tuple[str, ...]
    guidance: Guidance = APG()
    images: Count = 2
    steps: Count = 20
    negative: str = ""
    start: Start | None = None
    auxiliary: TextToImage | None = None
    away: float = 0.6
    real: Tensor | None = None
    judge: Judge | None = None
    judged: str = "judge"
    seed: int = 0
    batch_size: Count = 16
    name: str = "a pipeline at hand"

    def __post_init__(self) -> None:
        if not self.prompts or any(not isinstance(p, str) for p in self.prompts):
            raise InputError("GenerateJob.prompts must be at least one text to draw.")
        if self.guidance.scale == 1 and self.start is None and self.auxiliary is None:
            raise InputError(
                "GenerateJob.guidance has scale 1, which draws without guidance: both columns would be the same. "
                "Give a scale above 1, a start or an auxiliary."
            )
        if type(self.guidance) is CFG and self.start is None and self.auxiliary is None:
            raise InputError(
                "GenerateJob.guidance is classifier-free, which is what it is compared with: both columns would be the "
                "same. Give APG, a start or an auxiliary."
            )
        require_steps(self.pipeline, self.steps, self.guidance.scale, "generate")
        require_two_passes(self.pipeline, self.guidance, self.negative, "generate")
        self.pipeline.sampler(self.steps)
        with self._leading():
            pass  # refuses an auxiliary or a weight that changes nothing before anything is drawn
        if self.judge is not None and self.real is None:
            raise InputError("GenerateJob.judge measures distances to real pictures; give `real` too.")

    def plan(self) -> dict[str, Any]:
        """What is to be done, as plain JSON; a run goes on only under the same plan."""
        more = {} if self.start is None else {"start": described(self.start)}
        if isinstance(psi := getattr(self.start, "psi", None), Module):
            more["begins by"] = str(hashable(psi))
        more |= (
            {"away": self.away, "auxiliary": hashable(self.auxiliary)} if self.auxiliary is not None else {}
        )
        return {
            "guidance": described(self.guidance), "prompts": list(self.prompts), "images": self.images,
            "steps": self.steps, "negative": self.negative, "batch_size": self.batch_size, **more,
        }  # fmt: skip

    def run(self, out: Path | str, *, command: Sequence[str] = ()) -> Generated:
        """Draw both ways, measure, write PNGs and a report; a finished run is read again.

        Args:
            out: run folder; see `RunFolder`.
            command: as the user typed it.
        """
        source = self.pipeline.source
        inputs = {"pipeline": hashable(self.pipeline) if source is None else source}
        made = ("images", "before", "generate.json", "report.html", "report.md")
        with (
            RunFolder.open(
                Path(out), settings=self.plan(), inputs=inputs, seed=self.seed, command=command
            ) as run,
            run.stage("draw", *made) as stage,
        ):
            if stage.todo:
                self._draw(stage, run, command)
        return Generated.read(run.path)

    @property
    def method(self) -> str:
        """What the second column is called."""
        parts = [name_of(self.guidance)]
        parts += ["oms"] if self.start is not None else []
        parts += ["sims"] if self.auxiliary is not None else []
        return "+".join(parts)

    def _draw(self, stage: Stage, run: RunFolder, command: Sequence[str]) -> None:
        drawn, figures, kept_rules = {}, {}, _Kept(self.guidance)
        for name in ("before", self.method):
            began = perf_counter()
            guidance = CFG(scale=self.guidance.scale) if name == "before" else kept_rules
            drawn[name] = self._drawn(guidance, plain=name == "before")
            seconds = perf_counter() - began
            figures[name] = self._figures(drawn[name]) | {"seconds an image": seconds / len(drawn[name])}
        files = []
        for folder, images in zip(stage.paths[:2], (drawn[self.method], drawn["before"]), strict=True):
            folder.mkdir()
            for i, image in enumerate(images):
                files.append(f"{folder.name}/{i:04d}.png")
                save_png(image, folder / f"{i:04d}.png")
        kept = tuple(f for f in files if f.startswith("images/"))
        notes = (
            f"{len(self.prompts)} prompts, {self.images} pictures each, from the same noise; {self.steps} steps of "
            f"DDIM. Before: classifier-free guidance at {self.guidance.scale:g}.",
            *kept_rules.told(),
        )
        found = Generated(run.path, figures, kept, notes)
        write_text(stage.paths[2], found.json())
        write_text(stage.paths[3], self._page(found, drawn, run, command))
        write_text(stage.paths[4], self._markdown(found))

    def _drawn(self, guidance: Guidance, *, plain: bool) -> Tensor:
        asked = [p for p in self.prompts for _ in range(self.images)]
        with nullcontext() if plain else self._leading():
            return draw(
                self.pipeline, asked, guidance=guidance, start=None if plain else self.start, steps=self.steps,
                rng=seeded(self.seed), negative=self.negative,
                batch_size=self.batch_size,
            ).cpu()  # fmt: skip

    def _leading(self) -> AbstractContextManager[None]:
        other = self.auxiliary
        return (
            nullcontext()
            if other is None
            else extrapolated(self.pipeline.denoiser, other.denoiser, self.away)
        )

    def _figures(self, images: Tensor) -> dict[str, float]:
        found = looks(images)
        if self.real is None:
            return found
        features = None if self.judge is None else self.judge.features
        return found | beside_real(images, self.real, features, self.judged)

    def _page(
        self, found: Generated, drawn: Mapping[str, Tensor], run: RunFolder, command: Sequence[str]
    ) -> str:
        shown = {
            name: {p: images[i * self.images : (i + 1) * self.images] for i, p in enumerate(self.prompts)}
            for name, images in drawn.items()
        }
        sections = [
            Section(heading="Drawn", caption="The same noise in both columns.", picture=grids(shown)),
            self._table(found),
        ]
        return render_page(
            "Drawn before and after", kicker=f"{self.method} on {self.name}", lead=list(found.notes), sections=sections,
            run=facts_of(run, command),
        )  # fmt: skip

    def _table(self, found: Generated) -> Section:
        names = list(found.figures)
        rows = [
            (figure, *(words.number(found.figures[n][figure], digits=4) for n in names))
            for figure in found.figures[names[0]]
        ]
        told = "Values past the range are in % and lie beyond what a screen shows."
        return Section(heading="Figures", caption=told, columns=("figure", *names), rows=rows)

    def _markdown(self, found: Generated) -> str:
        pictures = [f"![{f}]({f})" for f in found.pictures]
        return "\n".join(
            [
                "# Drawn before and after",
                "",
                *found.notes,
                "",
                *table_lines(self._table(found)),
                "",
                *pictures,
                "",
            ]
        )


class _Kept:
    """A guidance whose rules are kept, for what they saw."""

    def __init__(self, guidance: Guidance) -> None:
        self._guidance, self._rules = guidance, list[Rule]()

    @property
    def scale(self) -> float:
        return self._guidance.scale

    def guide(self) -> Rule:
        self._rules.append(self._guidance.guide())
        return self._rules[-1]

    def told(self) -> tuple[str, ...]:
        """How long APG's differences were beside its threshold."""
        seen = [r for r in self._rules if isinstance(r, Projected) and r.lengths]
        if not seen:
            return ()
        length = median(v for r in seen for v in r.lengths)
        said = f"The difference that guides is {length:.3g} long (median over the steps)"
        threshold = seen[0].settings.threshold
        if not threshold:
            return (f"{said}; it was not capped.",)
        share = 100 * fmean(v for r in seen for v in r.capped)
        low = f" Guidance is mostly lost: a threshold of {length / 2:.2g} to {length:.2g} is typical."
        return (
            f"{said}, the threshold {threshold:g}; {share:.0f} % were capped."
            + (low if threshold < 0.1 * length else ""),
        )


def real_from(folder: Path, like: TextToImage) -> Tensor:
    """Real pictures of a folder, in the size that a pipeline draws.

    Raises:
        InputError: if it holds no picture.
    """
    image = require("PIL.Image", extra="diffusion", purpose="reading real pictures")
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp"))
    if not files:
        raise InputError(f"--real {folder} holds no PNG, JPEG or WebP picture.")
    height, width = (side * like.pixels_per_latent for side in like.shape[1:])
    mode = "L" if like.vae is None and like.shape[0] == 1 else "RGB"
    found = []
    for path in files:
        with image.open(path) as opened:
            pixels = opened.convert(mode).resize((width, height))
            flat = torch.frombuffer(bytearray(pixels.tobytes()), dtype=torch.uint8)
        found.append(flat.view(height, width, -1).permute(2, 0, 1).float() / 127.5 - 1)
    return torch.stack(found)
