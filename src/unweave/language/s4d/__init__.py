"""S4D, a layer for long sequences, and small networks of it."""

from __future__ import annotations

from .net import FixedS4D, S4DClassifier, at_rate, fixed, s4d_groups
from .s4d import S4D

__all__ = ["S4D", "FixedS4D", "S4DClassifier", "at_rate", "fixed", "s4d_groups"]
