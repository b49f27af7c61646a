"""ML-SIM: simulator, network, classical baseline."""

from __future__ import annotations

from .classical import classical, ring_correlation, widefield, wiener
from .ml_sim import MLSIM, MLSIMNet, fringes
from .simulator import Microscope, Simulator, transfer

__all__ = [
    "MLSIM",
    "MLSIMNet",
    "Microscope",
    "Simulator",
    "classical",
    "fringes",
    "ring_correlation",
    "transfer",
    "widefield",
    "wiener",
]
