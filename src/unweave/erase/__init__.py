"""Forget concepts in text-to-image diffusion models; attack the erasure; measure it."""

from __future__ import annotations

from ..tasks.text_to_image import Text, TextToImage, training_only
from .concept_ablation import ConceptAblation
from .concept_prune import ConceptPrune
from .concepts import Concepts
from .esd import ESD
from .fia import FIA, Neurons
from .uce import UCE

__all__: list[str] = [
    "ConceptAblation",
    "ConceptPrune",
    "Concepts",
    "ESD",
    "FIA",
    "Neurons",
    "Text",
    "TextToImage",
    "UCE",
    "training_only",
]
