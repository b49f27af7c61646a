"""SESR: collapsible linear blocks, and a super-resolution network of them."""

from __future__ import annotations

from .collapse import Factors, collapse, collapse_, expand_
from .sesr import SESR, SESRNet, warm_start_

__all__ = ["SESR", "Factors", "SESRNet", "collapse", "collapse_", "expand_", "warm_start_"]
