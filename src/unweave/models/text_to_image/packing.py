"""How Flux packs pictures: every two by two latents are one token, told apart by where they lie."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from ...errors import InputError


def packed(x: Tensor) -> Tensor:
    """Latents [n, c, h, w] as tokens [n, h w / 4, 4 c], row by row."""
    return pixel_unshuffle(x, 2).flatten(2).transpose(1, 2)


def unpacked(tokens: Tensor, like: Tensor) -> Tensor:
    """Tokens as latents of the height and width of `like`: `packed` undone."""
    height, width = (side // 2 for side in like.shape[-2:])
    return pixel_shuffle(tokens.transpose(1, 2).reshape(len(tokens), -1, height, width), 2)


def places(x: Tensor) -> Tensor:
    """Where the tokens of latents [n, c, h, w] lie: 0, row, column, [h w / 4, 3]."""
    height, width = (side // 2 for side in x.shape[-2:])
    at = torch.cartesian_prod(torch.zeros(1), torch.arange(height).float(), torch.arange(width).float())
    return at.view(-1, 3).to(x.device, x.dtype)


def require_packable(vae: Module | None, config: Any) -> None:
    """Raise unless a VAE makes latents that a denoiser with these settings reads two by two.

    Raises:
        InputError: if there is none, its latents have other channels, or an odd number of them lies side by side.
    """
    if vae is None:
        raise InputError(
            "a pipeline of Flux's kind needs its VAE, which says how large it draws; there is none."
        )
    told: Any = vae.config
    side = int(told.sample_size) // 2 ** (len(told.block_out_channels) - 1)
    if 4 * told.latent_channels != config.in_channels or side % 2 or not side:
        raise InputError(
            f"the VAE makes latents of {told.latent_channels} channels, {side} beside one another; packed two by two "
            f"they must be even in number and make the {config.in_channels} channels that the denoiser reads."
        )
