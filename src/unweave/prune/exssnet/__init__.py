"""ExSSNeT: learning task after task (exssnet), in one network with a mask for each (supermasks)."""

from __future__ import annotations

from .exssnet import ExSSNeT
from .supermasks import Supermasks

__all__ = ["ExSSNeT", "Supermasks"]
