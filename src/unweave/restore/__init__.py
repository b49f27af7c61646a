"""Restoring what was lost: video delivered by overfitting, super-resolution, unmixing and denoising."""

from __future__ import annotations

__all__: list[str] = []
