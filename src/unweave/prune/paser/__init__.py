"""PASER: choosing recovery data (paser) by what it means (clusters), what was lost (answers), what agrees (budget)."""

from __future__ import annotations

from .paser import PASER, Selected

__all__ = ["PASER", "Selected"]
