"""`unweave prune ./pipeline --method laptop-diff`: whole layers of a diffusers pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from ..catalogue import find
from ..errors import InputError
from ..io.pipeline_folder import is_pipeline_folder, load_pipeline
from ..jobs.shrink_pipeline import ShrinkPipelineJob
from ..jobs.tracking import Tracker
from ._flags import with_methods
from ._named import make
from ._parse import carried_out, parse
from ._prompts import prompts_of

METHOD = "laptop-diff"
EXAMPLE = """  unweave prune ./pipeline --method laptop-diff --keep 0.5 --prompts prompts.txt
  unweave prune ./pipeline --method laptop-diff --keep 0.7 --prompts "a cat" "a church" --laptop-diff.steps 5000"""


@dataclass(frozen=True, kw_only=True)
class PrunePipeline:
    """Remove whole layers of a text-to-image pipeline, those whose absence changes what it draws least, and train on.

    Attributes:
        pipeline: folder of a diffusers pipeline (Stable Diffusion 1.x, 2.x, SDXL, PixArt).
        method: laptop-diff.
        keep: largest share of the denoiser's parameters to keep.
        prompts: what it draws pictures of, to choose and to train on: prompts, or a file with one a line.
        pictures: drawn to choose and to train on.
        steps: of the sampler.
        guidance: scale of classifier-free guidance of the report's pictures.
        device: that it works on: cpu, cuda, mps.
        seed: governs the whole run.
        out: folder of the run, where the same command goes on; named by the settings unless given.
        tracker: also tell an experiment tracker: settings, the loss at every step, the figures at the end.
        json: print JSON.
    """

    pipeline: tyro.conf.Positional[str] = ""
    method: str = METHOD
    keep: float = 0.5
    prompts: tuple[str, ...] = ()
    pictures: int = 256
    steps: int = 20
    guidance: float = 7.5
    device: str = "cpu"
    seed: int = 0
    out: Path | None = None
    tracker: Tracker | None = None
    json: bool = False


def run(argv: Sequence[str]) -> int:
    """Prune a pipeline."""
    options = with_methods(PrunePipeline, [METHOD], skip=("keep",))
    asked: Any = parse(options, argv, command="prune", example=EXAMPLE)
    folder = Path(asked.pipeline)
    if not is_pipeline_folder(folder):
        raise InputError(
            f"{METHOD} removes layers of a diffusers pipeline; {asked.pipeline or 'nothing'!r} holds no "
            "model_index.json. Give "
            "the pipeline's folder."
        )
    job = ShrinkPipelineJob(
        pipeline=load_pipeline(folder, device=asked.device), prompts=prompts_of(asked.prompts),
        method=make(find(METHOD), asked, {"keep": asked.keep}), pictures=asked.pictures, steps=asked.steps,
        guidance=asked.guidance, seed=asked.seed, name=str(folder),
    )  # fmt: skip
    carried_out(job, asked, "prune", argv, asked.pipeline, asked.seed)
    return 0
