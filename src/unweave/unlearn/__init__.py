"""Forget data and classes; un-pruning."""

from __future__ import annotations

from .bad_teacher import BadTeacher
from .boundary_expand import BoundaryExpand
from .boundary_shrink import BoundaryShrink
from .fine_tune import FineTune
from .fisher_forgetting import FisherForgetting
from .fixed_mask import FixedMask
from .influence import Influence
from .newton import Newton
from .random_labels import RandomLabels
from .rewind_to_delete import RewindToDelete
from .salun import SalUn
from .scrub import SCRUB
from .sfron import SFRon
from .short_retrain import Continue, ShortRetrain
from .ssd import SSD
from .un_pruning import Unprune

__all__ = [
    "BadTeacher",
    "BoundaryExpand",
    "BoundaryShrink",
    "Continue",
    "FineTune",
    "FisherForgetting",
    "FixedMask",
    "Influence",
    "Newton",
    "RandomLabels",
    "RewindToDelete",
    "SCRUB",
    "SFRon",
    "SSD",
    "SalUn",
    "ShortRetrain",
    "Unprune",
]
