"""Fast FullSubNet: the network, its stream, and its training."""

from __future__ import annotations

from .fast_fullsubnet import FastFullSubNet, mask_loss
from .masks import compressed, expanded, mel_bank, ratio_mask
from .network import FastFullSubNetNet, Stream

__all__ = [
    "FastFullSubNet",
    "FastFullSubNetNet",
    "Stream",
    "compressed",
    "expanded",
    "mask_loss",
    "mel_bank",
    "ratio_mask",
]
