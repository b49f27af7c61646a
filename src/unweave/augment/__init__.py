"""Augmentation and the choice of what to augment."""

from __future__ import annotations

from .data_efficient_augmentation import Chosen, DataEfficientAugmentation, facility

__all__ = ["Chosen", "DataEfficientAugmentation", "facility"]
