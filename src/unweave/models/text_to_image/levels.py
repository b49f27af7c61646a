"""How noise enters: added to a signal (diffusion), or mixed with it (flow matching); read off diffusers' schedulers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...errors import InputError, require


def is_flow(scheduler: Any) -> bool:
    """Whether a scheduler mixes: x = (1 - s) x_0 + s e, of which e - x_0 is predicted."""
    return getattr(scheduler, "alphas_cumprod", None) is None and hasattr(scheduler, "scale_noise")


def shares_of(scheduler: Any) -> Tensor:
    """Share of the signal's variance at each time that was trained on, float64.

    Where noise is mixed in, time t of n has s = t / n: schedules choose among the times, and shift no level.

    Raises:
        InputError: if the scheduler is of neither kind, or the denoiser predicts what is not known here.
    """
    if is_flow(scheduler):
        n = scheduler.config.num_train_timesteps
        s = torch.arange(n, dtype=torch.float64) / n
        mixed: Tensor = (1 - s).square() / ((1 - s).square() + s.square())
        return mixed
    levels = getattr(scheduler, "alphas_cumprod", None)
    if levels is None:
        raise InputError(
            f"the scheduler {type(scheduler).__name__} has no alphas_cumprod, as diffusion by added noise has, and no "
            "scale_noise, as flow matching has: it is not supported."
        )
    predicted = scheduler.config.get("prediction_type", "epsilon")
    if predicted not in ("epsilon", "v_prediction"):
        raise InputError(
            f"the denoiser predicts {predicted!r}, as the scheduler has it; read are epsilon (noise) and "
            "v_prediction (velocity)."
        )
    shares: Tensor = levels.detach().cpu().double().clone()
    return shares


def flow_rates(t: Tensor | float, n: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """1 - s and s at times t of n, [n or 1, 1, ...] beside `like`."""
    s = torch.as_tensor(t, device="cpu").double().reshape(-1, *[1] * (like.ndim - 1)) / n
    return (1 - s).to(like.device, like.dtype), s.to(like.device, like.dtype)


def sampler_of(scheduler: Any, steps: int, times: int, *, tokens: int = 0, whole: bool = False) -> Any:
    """A deterministic sampler in a scheduler's noise levels, set to this many steps: DDIM, or the flow's own Euler.

    Args:
        scheduler: of diffusers.
        steps: of the sampler.
        times: that were trained on.
        tokens: of a picture, by whose number some flows shift their levels (`use_dynamic_shifting`).
        whole: begin with levels evenly spaced from 1 to 1 / steps, as Flux does, instead of the scheduler's own.

    Raises:
        InputError: if there are fewer times than steps.
    """
    if not 1 <= steps <= times:
        raise InputError(f"the sampler takes 1 to {times} steps, the levels it was trained on; got {steps}.")
    if not is_flow(scheduler):
        made = ddim(scheduler.config)
        made.set_timesteps(steps)
        return made
    made, config = type(scheduler).from_config(scheduler.config), scheduler.config
    more: dict[str, Any] = {"mu": shift_of(config, tokens)} if config.get("use_dynamic_shifting") else {}
    if whole and not config.get("use_flow_sigmas"):
        more["sigmas"] = torch.linspace(1, 1 / steps, steps, dtype=torch.float64).tolist()
    made.set_timesteps(steps, **more)
    return made


def shift_of(config: Mapping[str, Any], tokens: int) -> float:
    """How far a flow's levels are shifted for pictures of so many tokens: on the line through its two ends."""
    low, high = config["base_image_seq_len"], config["max_image_seq_len"]
    first, last = config["base_shift"], config["max_shift"]
    return float(first + (last - first) * (tokens - low) / (high - low))


def ddim(config: Mapping[str, Any]) -> Any:
    """Diffusers' DDIM in the noise schedule of another scheduler; x_0 is not clipped."""
    names = (
        "num_train_timesteps beta_start beta_end beta_schedule trained_betas prediction_type steps_offset "
        "timestep_spacing rescale_betas_zero_snr set_alpha_to_one"
    ).split()
    known = {k: v for k, v in config.items() if k in names and v is not None}
    made: Any = require("diffusers", extra="diffusion", purpose="sampling images").DDIMScheduler
    return made(**known, clip_sample=False)
