"""Guidance in pipelines of diffusers, by public means alone: forward hooks, and guiders of modular pipelines.

    with steered(pipe, APG(scale=10)):              # StableDiffusionPipeline, ...XLPipeline, ...3Pipeline, PixArt
        pipe("a photo of a cat", guidance_scale=5)

A classic pipeline asks its denoiser for both halves at once, without and with the prompt, and combines them by a
line of its own. The hook hands it the guided prediction in both halves, which that line leaves as it is: null + s
(told - null). A modular pipeline has a place for a guider, which `as_guider` fills.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from ..errors import InputError, require
from .guidance import Guidance, Rule, Step
from .schedules import Clock, predicts, repeats, step_at


@contextmanager
def steered(pipe: Any, guidance: Guidance) -> Iterator[list[Rule]]:
    """Let a pipeline of diffusers draw with this guidance inside the block; call it with a guidance_scale above 1.

    Its own scale, and what else it does with both predictions (`guidance_rescale`), then has no effect.

    Args:
        pipe: with a `unet` or a `transformer`, and a `scheduler`.
        guidance: APG, CFG, or your own.

    Yields:
        the rules that were made, one a generation, with what they remember.

    Raises:
        InputError: at once if the pipeline has no such parts, or a scale is built into its weights. Later if it draws
            without guidance, or does not ask for both halves at once.
    """
    denoiser, clock, rules = denoiser_of(pipe), Clock(), list[Rule]()
    predicts(pipe.scheduler)
    _require_unguided(denoiser)

    def guide(module: Module, args: Any, kwargs: Any, out: Any) -> Any:
        x, t = _read(module, args, kwargs)
        null_x, told_x = _halves(pipe, x)
        step = step_at(pipe.scheduler, told_x, t)
        if clock.begins(step, repeats(pipe.scheduler, t)):
            rules.append(guidance.guide())
        null, told = answer_of(out).chunk(2)
        channels = told_x.shape[1] if told.ndim == 4 else told.shape[-1]
        guided = rules[-1](told[:, :channels], null[:, :channels], step)
        whole = torch.cat([guided, told[:, channels:]], 1) if told.ndim == 4 else guided
        return with_answer(out, torch.cat([whole, whole]))

    handle = denoiser.register_forward_hook(guide, with_kwargs=True)
    try:
        yield rules
    finally:
        handle.remove()


def as_guider(guidance: Guidance, scheduler: Any) -> Any:
    """A guider for diffusers' modular pipelines: `pipe.update_components(guider=as_guider(APG(), pipe.scheduler))`.

    It is diffusers' own guider of two predictions with another rule; its latents are read off the denoiser while a
    prediction is made, as guiders that skip layers do.

    Args:
        guidance: APG, CFG, or your own.
        scheduler: the pipeline's.

    Raises:
        InputError: if the scheduler is not known.
    """
    predicts(scheduler)
    made: Any = require("diffusers", extra="diffusion", purpose="a guider").ClassifierFreeGuidance
    clock, rules, seen = Clock(), list[Rule](), list[Step]()

    class Guided(made):  # type: ignore[misc]
        """Diffusers' guider of two predictions, which another rule makes one."""

        def prepare_models(self, denoiser: Module) -> None:
            super().prepare_models(denoiser)

            def look(module: Module, args: Any, kwargs: Any) -> None:
                x, t = _read(module, args, kwargs)
                seen[:] = [step_at(scheduler, x, t)]
                self.again = repeats(scheduler, t)

            self.listening = denoiser.register_forward_pre_hook(look, with_kwargs=True)

        def cleanup_models(self, denoiser: Module) -> None:
            self.listening.remove()
            super().cleanup_models(denoiser)

        def forward(self, pred_cond: Tensor, pred_uncond: Tensor | None = None) -> Any:
            if pred_uncond is None:
                return super().forward(pred_cond, pred_uncond)
            if clock.begins(seen[0], self.again):
                rules.append(guidance.guide())
            guided = rules[-1](pred_cond, pred_uncond, seen[0])
            return super().forward(guided, guided)

    guider = Guided(guidance_scale=guidance.scale)
    guider.rules = rules
    return guider


def denoiser_of(pipe: Any) -> Module:
    """The module of a pipeline of diffusers that predicts noise.

    Raises:
        InputError: if it has no `unet` or `transformer`, or no `scheduler`.
    """
    found = getattr(pipe, "unet", None) or getattr(pipe, "transformer", None)
    if not isinstance(found, Module) or getattr(pipe, "scheduler", None) is None:
        raise InputError(
            f"{type(pipe).__name__} has no unet or transformer beside a scheduler; give a diffusers pipeline "
            "(for a TextToImage of ours: unweave.generate.draw)."
        )
    return found


def _require_unguided(denoiser: Any) -> None:
    config = getattr(denoiser, "config", {})
    if config.get("guidance_embeds") or config.get("time_cond_proj_dim"):
        raise InputError(
            f"the scale of guidance is built into the weights of this {type(denoiser).__name__} (distilled, as in "
            "FLUX "
            "or a consistency model): it has no prediction without the prompt to lead away from. Draw with its "
            "own scale, "
            "or use the model that it was distilled from."
        )


def _read(module: Any, args: Any, kwargs: Any) -> tuple[Tensor, Tensor | float]:
    """What a denoiser is called with: its first argument is the noisy tensor, and one is called timestep."""
    bound = signature(module.forward).bind(*args, **kwargs).arguments
    x, t = next(iter(bound.values())), bound.get("timestep")
    if not isinstance(x, Tensor) or t is None:
        raise InputError(
            f"{type(module).__name__} was not called with a noisy tensor and a timestep; it is no denoiser that is "
            "known here."
        )
    return x, t


def _halves(pipe: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    null, told = x.chunk(2) if len(x) % 2 == 0 else (x, x[:0])
    if not getattr(pipe, "do_classifier_free_guidance", True) or not torch.equal(null, told):
        raise InputError(
            f"{type(pipe).__name__} did not ask its denoiser for both halves at once, without and with the "
            "prompt. Call "
            "it with a guidance_scale above 1, and with pipelines that guide by two predictions only."
        )
    return null, told


def answer_of(out: Any) -> Tensor:
    """The prediction in what a denoiser returns: a tensor, a tuple that begins with it, or an object with `sample`.

    Raises:
        InputError: if it is none of these.
    """
    answer = out[0] if isinstance(out, tuple) else getattr(out, "sample", out)
    if not isinstance(answer, Tensor):
        raise InputError(
            f"the denoiser answers with a {type(out).__name__}; expected is a tensor or a sample."
        )
    return answer


def with_answer(out: Any, answer: Tensor) -> Any:
    """The same output with another prediction."""
    if isinstance(out, tuple):
        return (answer, *out[1:])
    return dataclasses.replace(out, sample=answer) if hasattr(out, "sample") else answer
