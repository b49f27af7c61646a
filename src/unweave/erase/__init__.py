"""Forget concepts in text-to-image diffusion models; attack the erasure; measure it."""

from __future__ import annotations

__all__: list[str] = []
