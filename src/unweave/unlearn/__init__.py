"""Forget data and classes; un-pruning."""

from __future__ import annotations

from .bad_teacher import BadTeacher
from .boundary_expand import BoundaryExpand
from .boundary_shrink import BoundaryShrink
from .fine_tune import FineTune
from .fixed_mask import FixedMask
from .random_labels import RandomLabels
from .rewind_to_delete import RewindToDelete
from .salun import SalUn
from .scrub import SCRUB
from .sfron import SFRon
from .short_retrain import Continue, ShortRetrain
from .ssd import SSD
from .un_pruning import Unprune

__all__ = [
    "SCRUB",
    "SSD",
    "BadTeacher",
    "BoundaryExpand",
    "BoundaryShrink",
    "Continue",
    "FineTune",
    "FixedMask",
    "RandomLabels",
    "RewindToDelete",
    "SFRon",
    "SalUn",
    "ShortRetrain",
    "Unprune",
]
