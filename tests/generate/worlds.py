"""Tiny pipelines of diffusers to draw from, and steps of a sampler made by hand."""

from __future__ import annotations

import inspect
from functools import lru_cache
from typing import Any

import pytest

pytest.importorskip("diffusers", reason="the diffusion extra is not installed")

import torch

from tests.zoo_diffusers import TOKENS, PipelineKind, pipeline
from unweave import seeded
from unweave.generate import Step
from unweave.random import global_seed

PROMPT = "a photo of a cat"


@lru_cache(maxsize=6)
def pipe(kind: PipelineKind) -> Any:
    """One pipeline of a kind for a whole file: its denoiser's weights must not change."""
    with global_seed(0):
        return pipeline(kind)


def drawn(made: Any, **asked: Any) -> torch.Tensor:
    """Latents of one call, for the same noise each time."""
    told = {
        "num_inference_steps": 4,
        "guidance_scale": 6.0,
        "output_type": "latent",
        "height": 16,
        "width": 16,
    } | asked
    wanted = {"clean_caption": False, "use_resolution_binning": False, "max_sequence_length": TOKENS}
    known = inspect.signature(made.__call__).parameters
    told |= {name: value for name, value in wanted.items() if name in known}
    return made(PROMPT, generator=seeded(0), **told).images


def step(predicts: Any = "epsilon", *, seed: int = 0, n: int = 3, share: float = 0.4, **more: Any) -> Step:
    x = torch.randn(n, 4, 6, 6, generator=seeded(seed), dtype=torch.float64)
    if predicts == "flow":
        return Step(x, 1 - share, share, predicts, **more)
    return Step(x, share**0.5, (1 - share) ** 0.5, predicts, **more)


def pair(seed: int = 1, n: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    rng = seeded(seed)
    told, null = (torch.randn(n, 4, 6, 6, generator=rng, dtype=torch.float64) for _ in range(2))
    return told, null
