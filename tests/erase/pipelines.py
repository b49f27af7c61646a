"""Tiny pipelines of random weights in the classes and layer names of what is read: Stable Diffusion, PixArt, Flux."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Literal

import pytest

pytest.importorskip("diffusers", reason="the diffusion extra is not installed")

from tests.zoo_diffusers import parts
from unweave.erase import Concepts
from unweave.io.pipeline_folder import load_pipeline, save_pipeline
from unweave.models.text_to_image import TextToImage
from unweave.random import global_seed

Kind = Literal["sd", "sdxl", "pixart", "sd3", "flux"]
KINDS: tuple[Kind, ...] = ("sd", "sdxl", "pixart")

CONCEPTS = Concepts(
    erase=("cat", "golf ball"),
    preserve=("dog", "church"),
    templates=("a photo of a {}", "a {} in the park"),
    bases=("a photo", "a park"),
)


@lru_cache(maxsize=3)
def _made(kind: Kind, seed: int) -> TextToImage:
    with global_seed(seed):
        made = parts(kind)
    return TextToImage(
        denoiser=made["unet" if "unet" in made else "transformer"],
        text_encoder=made["text_encoder"],
        text_encoder_2=made.get("text_encoder_2"),
        text_encoder_3=made.get("text_encoder_3"),
        tokenizers=[made[name] for name in ("tokenizer", "tokenizer_2", "tokenizer_3") if name in made],
        vae=made["vae"],
        scheduler=made["scheduler"],
    )


def pipeline(kind: Kind = "sd", seed: int = 0) -> TextToImage:
    """A pipeline of its own, in memory."""
    return deepcopy(_made(kind, seed))


@lru_cache(maxsize=3)
def folder(kind: Kind = "sd") -> Path:
    """The same, saved; do not write into it."""
    root = Path(tempfile.mkdtemp(prefix="unweave-pipeline-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    save_pipeline(_made(kind, 0), root / kind)
    return root / kind


def loaded(kind: Kind = "sd") -> TextToImage:
    return load_pipeline(folder(kind))
