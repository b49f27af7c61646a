"""Optimisers and training stabilisers: sharpness-aware, zero-order, second-order; losses and projections."""

from __future__ import annotations

from .aaer import AAER
from .asam import ASAM
from .cram import CrAM
from .degradation import Degradation, corruption_degradation
from .esam import ESAM
from .fair_sam import FairSAM, GroupWeights
from .gsam import GSAM
from .look_sam import LookSAM
from .m_sam import MSAM, Modalities
from .multi_sample_dropout import MultiSampleDropout
from .perp_grad import PerpGrad
from .s2_sam import S2SAM
from .sam import SAM
from .soap import SOAP
from .stable_max import StableMaxCrossEntropy, softmax_collapse_rate, stable_max
from .subgm import SubGM
from .zo_sam import ZOSAM

__all__ = [
    "AAER",
    "ASAM",
    "ESAM",
    "GSAM",
    "SAM",
    "SOAP",
    "ZOSAM",
    "CrAM",
    "Degradation",
    "FairSAM",
    "GroupWeights",
    "LookSAM",
    "MSAM",
    "Modalities",
    "MultiSampleDropout",
    "PerpGrad",
    "S2SAM",
    "StableMaxCrossEntropy",
    "SubGM",
    "corruption_degradation",
    "softmax_collapse_rate",
    "stable_max",
]
