"""Complex ratio masks of spectra, compressed, and the mel bank: the signal processing of FullSubNet."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...errors import InputError

K, C = 10.0, 0.1
"""Largest compressed value, and the slope's constant."""


def ratio_mask(noisy: Tensor, clean: Tensor) -> Tensor:
    """Complex mask of two complex spectra: clean = mask noisy; 0 where the noisy one is 0."""
    return noisy.conj() * clean / (noisy.abs().square() + torch.finfo(torch.float32).eps)


def compressed(mask: Tensor) -> Tensor:
    """Real and imaginary part [..., 2] of a complex mask, each K (1 - e^{-C m}) / (1 + e^{-C m}), m at least -100."""
    m = torch.view_as_real(mask).clamp_min(-100)
    return K * torch.tanh(C * m / 2)


def expanded(parts: Tensor) -> Tensor:
    """The complex mask of compressed parts [..., 2], which are clipped to +-9.9 first."""
    y = parts.clamp(-9.9, 9.9)
    return torch.view_as_complex((-torch.log((K - y) / (K + y)) / C).contiguous())


def mel_bank(bins: int, mels: int, rate: int) -> Tensor:
    """Triangles on the HTK mel scale between 0 and half the rate, height 1, [bins, mels].

    Raises:
        InputError: if a triangle holds no bin: more mels than the bins can tell apart.
    """
    top = 2595 * math.log10(1 + rate / 2 / 700)
    corners = 700 * (10 ** (torch.linspace(0, top, mels + 2, dtype=torch.float64) / 2595) - 1)
    at = torch.linspace(0, rate / 2, bins, dtype=torch.float64)
    rising = (at[:, None] - corners[:-2]) / (corners[1:-1] - corners[:-2])
    falling = (corners[2:] - at[:, None]) / (corners[2:] - corners[1:-1])
    bank = torch.minimum(rising, falling).clamp_min(0)
    empty = int((bank.sum(0) == 0).sum())
    if empty:
        raise InputError(
            f"{empty} of {mels} mel bands hold none of {bins} bins at {rate} Hz. Use fewer mels or a longer window."
        )
    return bank.float()
