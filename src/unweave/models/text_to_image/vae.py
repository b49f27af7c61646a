"""Between images and latents, a few images at a time: at 512 pixels each takes more than a gigabyte to decode."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_AT_ONCE = 4


def decoded(vae: Any, latents: Tensor) -> Tensor:
    """Images of latents, about -1 to 1; one at a time where the VAE was told to slice (`enable_slicing`)."""
    scaled = latents.to(vae.dtype) / vae.config.scaling_factor + _shift(vae)
    at_once = 1 if getattr(vae, "use_slicing", False) else _AT_ONCE
    return torch.cat([vae.decode(part).sample for part in scaled.split(at_once)])


def mean_latents(vae: Any, images: Tensor) -> Tensor:
    """Latents (means) of images between -1 and 1."""
    mean: Tensor = vae.encode(images.to(vae.device, vae.dtype)).latent_dist.mean
    found: Tensor = (mean - _shift(vae)) * vae.config.scaling_factor
    return found


def _shift(vae: Any) -> float:
    """What is taken off latents before they are scaled; flow models' have it."""
    return getattr(vae.config, "shift_factor", None) or 0.0
