"""Models of pictures without prompts, for editors: how each predicts the noise, and its schedule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from inspect import Parameter, signature
from typing import Any, cast

from torch import Tensor

from ..errors import InputError
from ..models.text_to_image import TextToImage
from ..models.text_to_image.one_step import draws_in_one_step, require_added_noise
from .guidance import Step
from .schedules import predicts

_SURE = 1e-3
"""How far past 1 a picture's value may lie."""


@dataclass(frozen=True)
class Prior:
    """A model of pictures without prompts: how it predicts noise, and its schedule.

    Attributes:
        predict: (noisy [n, ...], time) -> the noise in it.
        shares: abar of each time, float64.
        times: (steps) -> times of a grid of so many, rising.
        shape: of one picture, or None for any.
        into: pictures -> what is noised.
        out_of: back.
        latent: whether these differ.
    """

    predict: Callable[[Tensor, int], Tensor]
    shares: Tensor
    times: Callable[[int], list[int]]
    shape: tuple[int, ...] | None = None
    into: Callable[[Tensor], Tensor] = lambda x: x
    out_of: Callable[[Tensor], Tensor] = lambda x: x
    latent: bool = False

    @classmethod
    def of(cls, model: Any) -> Prior:
        """That of a pipeline.

        Raises:
            InputError: if it is none, reads prompts or classes that are not given, or draws in one step alone.
        """
        if isinstance(model, Prior):
            return model
        return _of_ours(model) if isinstance(model, TextToImage) else _of_diffusers(model)

    def rates(self, t: int) -> tuple[float, float]:
        """A and b at a time.

        Raises:
            InputError: if there is no noise, or no signal, at that time.
        """
        share = float(self.shares[t])
        if not 0 < share < 1:
            raise InputError(
                f"CODE: the schedule has {'no signal' if share <= 0 else 'no noise'} at time {t}, where nothing can be "
                "turned back. Use a smaller depth, or a schedule whose levels hold both."
            )
        return share**0.5, (1 - share) ** 0.5

    def require_fit(self, images: Tensor, bound: float | None, *, bounded: bool) -> None:
        """Raise unless these pictures can be edited by this model.

        Raises:
            InputError: naming what is wrong with them.
        """
        if images.ndim < 2 or (self.shape is not None and tuple(images.shape[1:]) != self.shape):
            raise InputError(
                f"CODE: the model's pictures are of shape {self.shape}; got {tuple(images.shape)}. Resize them first."
            )
        if not bool(images.isfinite().all()) or float(images.abs().max()) > 1 + _SURE:
            low, high = float(images.min()), float(images.max())
            raise InputError(
                f"CODE: pictures must lie between -1 and 1; got {low:.3g} to {high:.3g}. Scale them: 2 x - 1, if x is "
                "between 0 and 1."
            )
        if self.latent and bounded and bound is None:
            raise InputError(
                "CODE.bound must be given for a pipeline with a VAE: its latents do not lie between -1 and 1. Give the "
                "largest size that latents of real pictures have (TextToImage.latents(images).abs().quantile(0.999)), "
                "or take clip=() and threshold=False."
            )


def _of_ours(model: TextToImage) -> Prior:
    if draws_in_one_step(model):
        raise InputError(
            "CODE: the pipeline is a generator of one step; it has no way into the noise and back."
        )
    require_added_noise(model, "CODE")
    null = model.encode([""])
    height, width = (side * model.pixels_per_latent for side in model.shape[1:])
    channels = model.shape[0] if model.vae is None else 3
    return Prior(
        predict=lambda x, t: model.noise_prediction(x, t, null), shares=model.alphas_cumprod,
        times=lambda steps: sorted(set(model.sampler(steps).timesteps.tolist())), shape=(channels, height, width),
        into=model.latents, out_of=model.decode, latent=model.vae is not None,
    )  # fmt: skip


def _of_diffusers(model: Any) -> Prior:
    unet, scheduler = getattr(model, "unet", None), getattr(model, "scheduler", None)
    if unet is None or scheduler is None or predicts(scheduler) == "flow":
        raise InputError(
            f"CODE edits with a pipeline of unweave, or one of diffusers with a unet and a scheduler that adds noise; "
            f"got a {type(model).__name__}."
        )
    asked = [
        name for name, a in signature(unet.forward).parameters.items()
        if a.default is Parameter.empty and name not in ("sample", "timestep")
    ]  # fmt: skip
    told = getattr(unet.config, "num_class_embeds", None) or getattr(unet.config, "class_embed_type", None)
    if asked or told:
        raise InputError(
            f"CODE: {type(unet).__name__} reads {asked[0] if asked else 'a class'}, and which stands for none is not "
            "known. Load a text-to-image pipeline with unweave.io.pipeline_folder.load_pipeline, or take an "
            "unconditional model."
        )
    kind, shares = predicts(scheduler), scheduler.alphas_cumprod.detach().cpu().double()
    like = next(unet.parameters())

    def predict(x: Tensor, t: int) -> Tensor:
        share = float(shares[t])
        step = Step(x, share**0.5, (1 - share) ** 0.5, kind)
        out: Tensor = unet(x, t).sample
        return out if kind == "epsilon" else (x - step.signal * step.clean(out)) / step.noise

    size = unet.config.sample_size
    sides = (size, size) if isinstance(size, int) else tuple(size)
    return Prior(
        predict=predict, shares=shares, times=lambda steps: _spaced(scheduler, steps),
        shape=(cast(int, unet.config.in_channels), *sides), into=lambda x: x.to(like),
    )  # fmt: skip


def _spaced(scheduler: Any, steps: int) -> list[int]:
    known = len(scheduler.alphas_cumprod)
    if not 1 < steps <= known:
        raise InputError(f"CODE.steps must be from 2 to {known}, the levels of the schedule; got {steps}.")
    own = type(scheduler).from_config(scheduler.config)
    own.set_timesteps(steps)
    return sorted({int(t) for t in own.timesteps})
