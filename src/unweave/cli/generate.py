"""`unweave generate`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from ..audit.drawing.judges import WrittenJudge
from ..catalogue import find
from ..errors import InputError
from ..generate import CFG, Informed, OneMoreStep
from ..io.pipeline_folder import load_pipeline
from ..jobs.generate import GenerateJob, real_from
from ..jobs.tracking import Tracker
from ._flags import with_methods
from ._named import make
from ._parse import carried_out, parse
from ._prompts import prompts_of

EXAMPLE = """  unweave generate ./pipeline --guidance apg --scale 10 --prompts "a photo of a cat" "a red church"
  unweave generate ./pipeline --guidance apg --scale 10 --apg.threshold 7.5 --prompts prompts.txt --images 4
  unweave generate ./pipeline --guidance cfg --scale 5 --oms psi.safetensors --prompts prompts.txt
  unweave generate ./pipeline --guidance cfg --scale 3 --sims ./copy --sims-weight 0.6 --prompts prompts.txt
  unweave generate ./pipeline --prompts prompts.txt --real ./photos --judge inception.py   # FID, with your own weights

SIMS' copy and OMS' network are trained from Python: unweave.generate.SIMS, unweave.generate.OMS."""


@dataclass(frozen=True, kw_only=True)
class Generate:
    """Draw prompts from a text-to-image pipeline with better guidance, beside plain guidance from the same noise.

    Writes PNGs, a report with both in a grid, and figures: brightness, contrast, saturation, values past the range;
    beside real pictures also distances, precision and recall.

    Attributes:
        pipeline: folder of a diffusers pipeline (Stable Diffusion 1.x to 3.5, SDXL, PixArt, FLUX.1-schnell).
        prompts: what to draw: prompts, or a file with one a line.
        guidance: apg keeps high scales free of oversaturation; cfg is plain guidance, for use with --oms or --sims.
        scale: of guidance, in both columns.
        images: of each prompt.
        steps: of the sampler.
        negative: prompt that guidance leads away from.
        oms: network of OMS (a file that its `save` wrote), which informs the noise that is begun at.
        sims: folder of a pipeline that SIMS trained on this one's own pictures, to draw away from.
        sims_weight: how far.
        real: folder of real pictures, to measure against.
        judge: your own .py file with names(images) and features(images), for distances to the real pictures; its name
            stands beside them. With Inception's features the distance is FID.
        device: that it works on: cpu, cuda, mps.
        seed: of the noise.
        out: folder of the run; named by the settings unless given.
        tracker: also tell an experiment tracker.
        json: print JSON.
    """

    pipeline: tyro.conf.Positional[str] = ""
    prompts: tuple[str, ...] = ()
    guidance: Literal["apg", "cfg"] = "apg"
    scale: float = 7.5
    images: int = 2
    steps: int = 20
    negative: str = ""
    oms: Path | None = None
    sims: Path | None = None
    sims_weight: float | None = None
    real: Path | None = None
    judge: Path | None = None
    device: str = "cpu"
    seed: int = 0
    out: Path | None = None
    tracker: Tracker | None = None
    json: bool = False


def run(argv: Sequence[str]) -> int:
    """Draw."""
    options = with_methods(Generate, ["apg"], skip=("scale",))
    asked: Any = parse(options, argv, command="generate", example=EXAMPLE)
    if not asked.pipeline:
        raise InputError("give the folder of a diffusers pipeline: unweave generate ./pipeline --prompts ...")
    if asked.sims is None and asked.sims_weight is not None:
        raise InputError("--sims-weight would do nothing without --sims.")
    if asked.real is None and asked.judge is not None:
        raise InputError("--judge measures distances to real pictures; give their folder too (--real).")
    model, plain = load_pipeline(Path(asked.pipeline), device=asked.device), asked.guidance == "cfg"
    psi = None if asked.oms is None else OneMoreStep.load(asked.oms).to(asked.device)
    job = GenerateJob(
        pipeline=model, prompts=prompts_of(asked.prompts), images=asked.images, steps=asked.steps,
        guidance=CFG(scale=asked.scale) if plain else make(find("apg"), asked, {"scale": asked.scale}),
        negative=asked.negative, start=None if psi is None else Informed(psi),
        auxiliary=None if asked.sims is None else load_pipeline(asked.sims, device=asked.device),
        away=0.6 if asked.sims_weight is None else asked.sims_weight,
        real=None if asked.real is None else real_from(asked.real, model),
        judge=None if asked.judge is None else WrittenJudge(asked.judge),
        judged=asked.judge.stem if asked.judge else "judge", seed=asked.seed, name=asked.pipeline,
    )  # fmt: skip
    carried_out(job, asked, "generate", argv, asked.pipeline, asked.seed)
    return 0
