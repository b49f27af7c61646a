"""Prune: score x pattern x budget x schedule."""

from __future__ import annotations

from .budgets import ERK, Global, Uniform
from .magnitude import Magnitude
from .one_shot import Prune
from .patterns import NM, Block, Channel, Unstructured
from .scope import Scope
from .select import select
from .threshold import kth_largest

__all__ = [
    "ERK",
    "NM",
    "Block",
    "Channel",
    "Global",
    "Magnitude",
    "Prune",
    "Scope",
    "Uniform",
    "Unstructured",
    "kth_largest",
    "select",
]
