"""Optimisers and training stabilisers: sharpness-aware, zero-order, second-order; losses and projections."""

from __future__ import annotations

from .asam import ASAM
from .cram import CrAM
from .esam import ESAM
from .gsam import GSAM
from .look_sam import LookSAM
from .s2_sam import S2SAM
from .sam import SAM
from .zo_sam import ZOSAM

__all__ = ["ASAM", "ESAM", "GSAM", "SAM", "ZOSAM", "CrAM", "LookSAM", "S2SAM"]
