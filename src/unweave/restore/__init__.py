"""Restoring what was lost: video delivered by overfitting, super-resolution, unmixing and denoising."""

from __future__ import annotations

from .sesr import SESR, Factors, SESRNet, collapse, collapse_, expand_, warm_start_
from .weights import Restorer, load_restorer, save_restorer

__all__ = [
    "SESR",
    "Factors",
    "Restorer",
    "SESRNet",
    "collapse",
    "collapse_",
    "expand_",
    "load_restorer",
    "save_restorer",
    "warm_start_",
]
