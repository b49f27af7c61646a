"""Forget data and classes; un-pruning."""

from __future__ import annotations

from .bad_teacher import BadTeacher
from .boundary_expand import BoundaryExpand
from .boundary_shrink import BoundaryShrink
from .fine_tune import FineTune
from .fisher_forgetting import FisherForgetting
from .fixed_mask import FixedMask
from .gradient_ascent import GradientAscent
from .influence import Influence
from .l1_sparse import L1Sparse
from .laf import LAF
from .logit_mask import LogitMask
from .neggrad_plus import NegGradPlus
from .newton import Newton
from .prune_then_unlearn import PruneThenUnlearn
from .random_labels import RandomLabels
from .retrain import Retrain
from .rewind_to_delete import RewindToDelete
from .s3t import S3T
from .salun import SalUn
from .scrub import SCRUB
from .sfron import SFRon
from .shock_and_heal import ShockAndHeal
from .short_retrain import Continue, ShortRetrain
from .sisa import SISA
from .ssd import SSD
from .unprune import Unprune
from .worst_case_forget import WorstCaseForget

__all__ = [
    "BadTeacher",
    "BoundaryExpand",
    "BoundaryShrink",
    "Continue",
    "FineTune",
    "FisherForgetting",
    "FixedMask",
    "GradientAscent",
    "Influence",
    "L1Sparse",
    "LAF",
    "LogitMask",
    "NegGradPlus",
    "Newton",
    "PruneThenUnlearn",
    "RandomLabels",
    "Retrain",
    "RewindToDelete",
    "S3T",
    "SCRUB",
    "SFRon",
    "SISA",
    "SSD",
    "SalUn",
    "ShockAndHeal",
    "ShortRetrain",
    "Unprune",
    "WorstCaseForget",
]
