"""Restoring what was lost: video delivered by overfitting, super-resolution, unmixing and denoising."""

from __future__ import annotations

from .cue import (
    CUE,
    CUENet,
    GradientPrior,
    IlluminationPrior,
    Parts,
    bilateral,
    drawn_gradients,
    retinex_loss,
)
from .dy_dca import DyDCA
from .ediffsr import EDiffSR, EDiffSRNet, MeanReverting, Sampler, Stepped, step_loss
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
from .ml_sim import (
    MLSIM,
    Microscope,
    MLSIMNet,
    Simulator,
    classical,
    fringes,
    ring_correlation,
    transfer,
    widefield,
    wiener,
)
from .neural_video_delivery_baselines import EMT, NAS, SRVC, AwDNN, CaFM, LiveNAS
from .pcsr import PCSR, PCSRNet, by_clusters, by_knob, knob_for, mixed_loss, refined
from .quality import psnr, si_sdr, spectral_angle, ssim
from .sesr import SESR, Factors, SESRNet, collapse, collapse_, expand_, warm_start_
from .stdo import STDO
from .superinpaint import SuperInpaint, SuperInpaintNet, holes, place_loss
from .weights import Restorer, load_restorer, save_restorer

__all__ = [
    "CUE",
    "CUENet",
    "AwDNN",
    "CaFM",
    "DyDCA",
    "EMT",
    "LiveNAS",
    "NAS",
    "SRVC",
    "EDiffSR",
    "EDiffSRNet",
    "ESSAformer",
    "ESSAformerNet",
    "Factors",
    "FastFullSubNet",
    "FastFullSubNetNet",
    "GradientPrior",
    "IlluminationPrior",
    "MLSIM",
    "MLSIMNet",
    "MeanReverting",
    "Microscope",
    "PCSR",
    "PCSRNet",
    "Parts",
    "Restorer",
    "SESR",
    "SESRNet",
    "STDO",
    "Sampler",
    "Simulator",
    "Stepped",
    "Stream",
    "SuperInpaint",
    "SuperInpaintNet",
    "attention",
    "bilateral",
    "by_clusters",
    "by_knob",
    "classical",
    "collapse",
    "collapse_",
    "compressed",
    "drawn_gradients",
    "expand_",
    "expanded",
    "fringes",
    "holes",
    "knob_for",
    "load_restorer",
    "mask_loss",
    "mel_bank",
    "mixed_loss",
    "place_loss",
    "psnr",
    "ratio_mask",
    "refined",
    "retinex_loss",
    "ring_correlation",
    "save_restorer",
    "si_sdr",
    "spectral_angle",
    "ssim",
    "step_loss",
    "transfer",
    "warm_start_",
    "widefield",
    "wiener",
]
