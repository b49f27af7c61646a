"""Units of a model: rows and columns of its weights that stand or fall together, found by following them."""

from __future__ import annotations

from .trace import OUTPUT, Group, Place, Units, answers, find_units

__all__ = ["OUTPUT", "Group", "Place", "Units", "answers", "find_units"]
