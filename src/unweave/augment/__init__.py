"""Augmentation and the choice of what to augment."""

from __future__ import annotations

__all__: list[str] = []
