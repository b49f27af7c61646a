"""What a language model that classifies by examples in its prompt is unsure of, and how well that tells its errors."""

from __future__ import annotations

from .detection import Detection, Selective, detection, selective
from .prompts import LabelPrompts, Prompts
from .uq_icl import UQICL, Parts, Uncertainty, entropy_parts, variance_parts

__all__ = [
    "UQICL", "Detection", "LabelPrompts", "Parts", "Prompts", "Selective", "Uncertainty", "detection", "entropy_parts",
    "selective", "variance_parts",
]  # fmt: skip
