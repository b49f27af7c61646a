"""Which weights live: masks, and how they are chosen from scores (score x pattern x budget)."""

from __future__ import annotations

from .budgets import ERK, Budget, Global, PerOutput, Uniform
from .mask import Mask
from .patterns import NM, Block, Channel, Pattern, Unstructured
from .scope import Scope
from .select import lowest, select
from .threshold import kth_largest

__all__ = [
    "ERK", "NM", "Block", "Budget", "Channel", "Global", "Mask", "Pattern", "PerOutput", "Scope", "Uniform",
    "Unstructured", "kth_largest", "lowest", "select",
]  # fmt: skip
