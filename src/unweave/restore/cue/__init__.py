"""CUE: priors, enhancer and training."""

from __future__ import annotations

from .cue import CUE, retinex_loss
from .enhancer import CUENet, Parts
from .gradients import GradientPrior, drawn_gradients
from .illumination import IlluminationPrior, bilateral

__all__ = [
    "CUE",
    "CUENet",
    "GradientPrior",
    "IlluminationPrior",
    "Parts",
    "bilateral",
    "drawn_gradients",
    "retinex_loss",
]
