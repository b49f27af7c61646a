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
        InputError: if the scheduler is of neither kind, shifts by the picture's size, or the denoiser predicts what is
            not known here.
    """
    if is_flow(scheduler):
        if scheduler.config.get("use_dynamic_shifting"):
            raise InputError(
                f"the scheduler {type(scheduler).__name__} shifts its times by the picture's size "
                "(use_dynamic_shifting), which is not read. Set a fixed shift."
            )
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


def sampler_of(scheduler: Any, steps: int, times: int) -> Any:
    """A deterministic sampler in a scheduler's noise levels, set to this many steps: DDIM, or the flow's own Euler.

    Raises:
        InputError: if there are fewer times than steps.
    """
    if not 1 <= steps <= times:
        raise InputError(f"the sampler takes 1 to {times} steps, the levels it was trained on; got {steps}.")
    made = type(scheduler).from_config(scheduler.config) if is_flow(scheduler) else ddim(scheduler.config)
    made.set_timesteps(steps)
    return made


def ddim(config: Mapping[str, Any]) -> Any:
    """Diffusers' DDIM in the noise schedule of another scheduler; x_0 is not clipped."""
    names = (
        "num_train_timesteps beta_start beta_end beta_schedule trained_betas prediction_type steps_offset "
        "timestep_spacing rescale_betas_zero_snr set_alpha_to_one"
    ).split()
    known = {k: v for k, v in config.items() if k in names and v is not None}
    made: Any = require("diffusers", extra="diffusion", purpose="sampling images").DDIMScheduler
    return made(**known, clip_sample=False)
