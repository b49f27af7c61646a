"""The only loop that trains, and what surrounds it: recipes, paired data, processes, resumable state."""

from __future__ import annotations

from .context import Estimate, each, estimating, few, recording, resumable, timed
from .loop import Fit, fit_
from .training import Batches, Loop, Objective, Step, steps_of

__all__ = [
    "Batches", "Estimate", "Fit", "Loop", "Objective", "Step", "each", "estimating", "few", "fit_", "recording",
    "resumable", "steps_of", "timed",
]  # fmt: skip
