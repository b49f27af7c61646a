"""Dy-DCA: a heavy path for small hard patches, a light path for large easy ones, and memory planned ahead."""

from __future__ import annotations

from .dy_dca import DyDCA
from .plan import MemoryPlan, compiled, plan_memory

__all__ = ["DyDCA", "MemoryPlan", "compiled", "plan_memory"]
