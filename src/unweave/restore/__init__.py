"""Restoring what was lost: video delivered by overfitting, super-resolution, unmixing and denoising."""

from __future__ import annotations

from .essaformer import ESSAformer, ESSAformerNet, attention
from .fast_fullsubnet import (
    FastFullSubNet,
    FastFullSubNetNet,
    Stream,
    compressed,
    expanded,
    mask_loss,
    mel_bank,
    ratio_mask,
)
from .quality import psnr, si_sdr, spectral_angle, ssim
from .sesr import SESR, Factors, SESRNet, collapse, collapse_, expand_, warm_start_
from .weights import Restorer, load_restorer, save_restorer

__all__ = [
    "SESR",
    "ESSAformer",
    "ESSAformerNet",
    "Factors",
    "FastFullSubNet",
    "FastFullSubNetNet",
    "Restorer",
    "SESRNet",
    "Stream",
    "attention",
    "collapse",
    "collapse_",
    "compressed",
    "expand_",
    "expanded",
    "load_restorer",
    "mask_loss",
    "mel_bank",
    "psnr",
    "ratio_mask",
    "save_restorer",
    "si_sdr",
    "spectral_angle",
    "ssim",
    "warm_start_",
]
