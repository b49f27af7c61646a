"""Methods for texts and sequences: make a language model forget, tell how unsure it is, classify, read sound.

Unlearners read a `Request[CausalLM]`.
"""

from __future__ import annotations

from .alt_po import AltPO
from .ce_u import CEU
from .dpo import DPO
from .grad_diff import GradDiff
from .idk import IDK
from .npo import NPO
from .o3 import O3
from .pdu import PDU
from .problem_statements import ReviewClassifier, Vocabulary, deduplicated, evaluate
from .rmu import RMU
from .s4d import S4D, S4DClassifier, at_rate, fixed, s4d_groups
from .sat_imp import SatImp
from .sim_npo import SimNPO
from .task_vector import TaskVector
from .undial import UNDIAL
from .uq_icl import (
    UQICL,
    LabelPrompts,
    Uncertainty,
    detection,
    entropy_parts,
    selective,
    variance_parts,
)
from .wga import WGA
from .whp import WHP

__all__ = [
    "CEU", "DPO", "IDK", "NPO", "O3", "PDU", "RMU", "S4D", "UNDIAL", "UQICL", "WGA", "WHP", "AltPO", "GradDiff",
    "LabelPrompts", "ReviewClassifier", "S4DClassifier", "SatImp", "SimNPO", "TaskVector", "Uncertainty", "Vocabulary",
    "at_rate", "deduplicated", "detection", "entropy_parts", "evaluate", "fixed", "s4d_groups", "selective",
    "variance_parts",
]  # fmt: skip
