"""Flags of `unweave erase`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from ..jobs.pipelines import Precision
from ..jobs.tracking import Tracker


@dataclass(frozen=True, kw_only=True)
class Erase:
    """Erase concepts from a diffusers text-to-image pipeline, and look at what it draws before and after.

    Attributes:
        pipeline: folder of a diffusers pipeline (Stable Diffusion 1.x to 3.5, SDXL, PixArt, FLUX.1), or nothing for the
            small world of digits, made on the spot.
        concepts: what to erase, with commas between; cat=dog turns a cat into a dog, "golf ball|golfball" are two names
            of one concept.
        preserve: what must survive, with commas between.
        guide: what erased concepts are turned into: one for all, or one each, in their order; "" is nothing at all.
        map: guides by name: "Van Gogh=painting, church=house". Without --concepts these are the concepts.
        templates: prompts to ask in: object, style, attribute, person, explicit, or a file with a prompt a line, {} for
            the concept; after a tab the same prompt without it.
        prompts: a file of prompts as you would write them, a line each, in place of templates; each names one of the
            concepts, and is asked for every one of them in its place.
        method: how; see `unweave list --family erase`.
        compare: further methods to run and report beside it.
        in_turn: erase the concepts one after the other instead of together, and look at all of them after each.
        oracle: folders of pipelines trained without the concepts, to compare with.
        judge: what names the images: a transformers image-classification folder whose labels are the concepts, or your
            own .py file with names(images), features(images) and labels. Without one nothing can be concluded.
        attack: what must not bring the concepts back, on all pipelines. soft-vector moves a vector before the prompts
            by gradient: seconds on a small pipeline, minutes on a GPU for a large one. unlearn-diff-atk searches for
            tokens, token-search tries random ones: beside it, and longer. none: no attack.
        attack_prompts: prompts to attack, at least four of each concept.
        images: drawn for each prompt.
        images_at_once: drawn at once in the audit, which takes as much memory.
        steps: of the sampler.
        guidance: scale of classifier-free guidance; FLUX.1-dev, which is told it, draws at about 3.5, and
            FLUX.1-schnell at 1 in 4 steps.
        device: that the pipelines work on: cpu, cuda, mps.
        dtype: of the pipeline's weights, in which it is written, too; "stored" leaves them as they are.
        slim: take less memory and more time: attention in slices, activations computed again for gradients, the VAE one
            image at a time.
        offload: keep text encoders and VAE on the CPU while they are idle; with another device than the CPU.
        output: lora also writes the change as an adapter, in lora beside model, for diffusers' load_lora_weights; for
            edits of linear layers (train cross or cross_kv) of Stable Diffusion and SDXL.
        seed: governs the whole run.
        cache: folder of the small world's trained models; UNWEAVE_CACHE or ~/.cache/unweave unless given.
        out: folder of the run, where the same command goes on; named by the settings unless given.
        tracker: also tell an experiment tracker: settings, the loss at every step, the figures at the end.
        json: print the audit as JSON.
    """

    pipeline: tyro.conf.Positional[str] = ""
    concepts: str = ""
    preserve: str = ""
    guide: str = ""
    map: str = ""
    templates: str = "object"
    prompts: Path | None = None
    method: str = "uce"
    compare: tuple[str, ...] = ()
    in_turn: bool = False
    oracle: tuple[Path, ...] = ()
    judge: Path | None = None
    attack: Literal["soft-vector", "unlearn-diff-atk", "token-search", "none"] = "soft-vector"
    attack_prompts: int = 10
    images: int = 4
    images_at_once: int = 16
    steps: int = 20
    guidance: float = 7.5
    device: str = "cpu"
    dtype: Precision = "stored"
    slim: bool = False
    offload: bool = False
    output: Literal["pipeline", "lora"] = "pipeline"
    seed: int = 0
    cache: Path | None = None
    out: Path | None = None
    tracker: Tracker | None = None
    json: bool = False
