"""The only loop that trains, and what surrounds it: recipes, paired data, processes, resumable state."""

from __future__ import annotations

from .context import Estimate, estimating, recording, resumable
from .loop import Batches, Fit, Objective, Step, fit_

__all__ = ["Batches", "Estimate", "Fit", "Objective", "Step", "estimating", "fit_", "recording", "resumable"]
