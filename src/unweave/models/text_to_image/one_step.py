"""Pipelines that draw in one step: where the step begins, the schedule that ends there, and how they are told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn import ModuleList

from ...errors import InputError, require
from .pipeline import TextToImage


def level(model: TextToImage, ratio: float, who: str) -> int:
    """The step whose noise is nearest to this many times the signal.

    Raises:
        InputError: if there is none so noisy, by more than 5 per cent; begins with `who`.
    """
    require_added_noise(model, who)
    a = model.alphas_cumprod
    ratios = ((1 - a) / a).sqrt()
    if ratio > 1.05 * float(ratios[-1]):
        raise InputError(
            f"{who}: the pipeline's noise reaches {float(ratios[-1]):.3g} times the signal, not {ratio}. Lower start "
            "or high."
        )
    return int((ratios.log() - torch.tensor(ratio).log()).abs().argmin())


def require_added_noise(model: TextToImage, who: str) -> None:
    """Raise where noise is mixed in: what is written for added noise would be wrong there.

    Raises:
        InputError: naming who asks.
    """
    if model.flows:
        raise InputError(
            f"{who} is written for diffusion by added noise; this pipeline ({type(model.scheduler).__name__}) mixes "
            "noise in (flow matching)."
        )


def draws_in_one_step(pipeline: TextToImage) -> bool:
    """Whether the pipeline is a generator that SFD or SIM made, to be drawn from in one step without guidance."""
    known = pipeline.scheduler.config
    return known.get("timestep_spacing") == "trailing" and known.get("trained_betas") is not None


def require_steps(pipeline: TextToImage, steps: int, guidance: float, who: str) -> None:
    """Raise if a generator of one step is to draw in more of them, or with guidance: it draws no better, but wrong.

    Raises:
        InputError: naming what to ask for instead.
    """
    if draws_in_one_step(pipeline) and (steps != 1 or guidance != 1):
        raise InputError(
            f"{who}: the pipeline is a generator of one step, which knows one level of noise and no guidance; asked "
            f"for are {steps} steps at guidance {guidance:g}. Draw with one step at guidance 1, or with the pipeline "
            "that it was distilled from."
        )


def one_step(pipeline: TextToImage, prompts: Sequence[str], *, rng: Generator) -> Tensor:
    """Draw with a generator of one step: one image a prompt, [n, channels, height, width], about -1 to 1.

    Raises:
        InputError: if the pipeline is no such generator.
    """
    if not draws_in_one_step(pipeline):
        raise InputError(
            "one_step draws with a generator made by SFD(keep='generator') or SIM; this pipeline is none."
        )
    return pipeline.sample(prompts, steps=1, guidance=1, rng=rng)


def started_at(model: TextToImage, t0: int) -> TextToImage:
    """The same with a schedule that ends at t0, where any of diffusers' samplers then begins."""
    a = model.alphas_cumprod[: t0 + 1]
    betas = 1 - a / torch.cat([a.new_ones(1), a[:-1]])
    ddim: Any = require("diffusers", extra="diffusion", purpose="sampling images").DDIMScheduler
    model.scheduler = ddim(
        num_train_timesteps=t0 + 1, trained_betas=betas.tolist(), timestep_spacing="trailing", steps_offset=1,
        set_alpha_to_one=True, clip_sample=False,
        prediction_type=model.scheduler.config.get("prediction_type", "epsilon"),
    )  # fmt: skip
    model.alphas_cumprod = a.clone()
    if model.index:
        model.index = {**model.index, "scheduler": ["diffusers", "DDIMScheduler"]}
    return model


class Still(ModuleList):
    """Networks that stay in eval mode."""

    def train(self, mode: bool = True) -> Still:
        """Stay in eval mode."""
        super().train(False)
        return self
