"""EDiffSR: mean-reverting sampler, network and training."""

from __future__ import annotations

from .ediffsr import EDiffSR, step_loss
from .network import EDiffSRNet
from .scheduler import MeanReverting, Sampler, Stepped

__all__ = ["EDiffSR", "EDiffSRNet", "MeanReverting", "Sampler", "Stepped", "step_loss"]
