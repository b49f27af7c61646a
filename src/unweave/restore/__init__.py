"""Restoring what was lost: video delivered by overfitting, super-resolution, unmixing and denoising."""

from __future__ import annotations

from .stdo import STDO

__all__ = ["STDO"]
