"""Restoring what was lost: video delivered by overfitting, super-resolution, unmixing and denoising."""

from __future__ import annotations

from .dy_dca import DyDCA
from .neural_video_delivery_baselines import EMT, NAS, SRVC, AwDNN, CaFM, LiveNAS
from .stdo import STDO

__all__ = ["EMT", "NAS", "SRVC", "STDO", "AwDNN", "CaFM", "DyDCA", "LiveNAS"]
