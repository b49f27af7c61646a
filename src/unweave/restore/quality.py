"""Figures of restored signals beside the clean ones."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import InputError
from ..tasks.restoring import decibels

__all__ = ["psnr", "si_sdr", "spectral_angle", "ssim"]


def psnr(made: Tensor, clean: Tensor, *, peak: float = 1.0) -> Tensor:
    """Peak signal-to-noise ratio of each example, dB, [n]; at most 100."""
    _same(made, clean, "psnr")
    return decibels((made.double() - clean.double()).square().flatten(1).mean(1), peak)


def ssim(made: Tensor, clean: Tensor, *, peak: float = 1.0) -> Tensor:
    """Structural similarity of pictures [n, c, h, w] in a Gaussian window of 11 pixels, deviation 1.5; [n].

    Wang et al., "Image Quality Assessment", IEEE TIP 2004; only windows that lie inside count.

    Raises:
        InputError: if the shapes differ, or a side is below 11.
    """
    _same(made, clean, "ssim")
    if made.ndim != 4 or min(made.shape[2:]) < 11:
        raise InputError(
            f"ssim reads pictures [n, c, h, w] with sides of at least 11; got {tuple(made.shape)}."
        )
    return structural(made, clean, peak=peak)


def structural(made: Tensor, clean: Tensor, *, peak: float = 1.0, side: int = 11) -> Tensor:
    """See `ssim`; the window has that many pixels a side."""
    along = torch.arange(side, dtype=torch.float64, device=made.device) - (side - 1) / 2
    along = torch.exp(-0.5 * along.square() / 1.5**2)
    along = along / along.sum()
    n, c = made.shape[:2]

    def blurred(x: Tensor) -> Tensor:
        planes = x.reshape(n * c, 1, *x.shape[2:])
        return F.conv2d(F.conv2d(planes, along.view(1, 1, -1, 1)), along.view(1, 1, 1, -1))

    a, b = made.double(), clean.double()
    mean_a, mean_b = blurred(a), blurred(b)
    var_a, var_b = blurred(a * a) - mean_a**2, blurred(b * b) - mean_b**2
    both = blurred(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    score = (2 * mean_a * mean_b + c1) * (2 * both + c2)
    score = score / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    return score.view(n, -1).mean(1)


def spectral_angle(made: Tensor, clean: Tensor) -> Tensor:
    """Mean angle between the spectra of cubes [n, bands, h, w], in degrees, [n]; black pixels of both count as 0."""
    _same(made, clean, "spectral_angle")
    a, b = made.double(), clean.double()
    sizes = a.norm(dim=1) * b.norm(dim=1)
    cosine = torch.where(sizes > 0, (a * b).sum(1) / sizes.clamp_min(1e-300), 1.0)
    return torch.rad2deg(torch.arccos(cosine.clamp(-1, 1))).flatten(1).mean(1)


def si_sdr(made: Tensor, clean: Tensor) -> Tensor:
    """Scale-invariant signal-to-distortion ratio of sounds [n, samples], dB, [n].

    Le Roux et al., "SDR - Half-Baked or Well Done?", ICASSP 2019; both are centred first.
    """
    _same(made, clean, "si_sdr")
    a, b = (x.double() - x.double().mean(-1, keepdim=True) for x in (made, clean))
    held = (a * b).sum(-1, keepdim=True) / b.square().sum(-1, keepdim=True).clamp_min(1e-12) * b
    ratio = held.square().sum(-1) / (a - held).square().sum(-1).clamp_min(1e-12)
    return 10 * ratio.clamp_min(1e-12).log10()


def _same(made: Tensor, clean: Tensor, who: str) -> None:
    if made.shape != clean.shape:
        raise InputError(f"{who} needs two of one shape; got {tuple(made.shape)} and {tuple(clean.shape)}.")
