"""Forget concepts in text-to-image diffusion models; attack the erasure; measure it."""

from __future__ import annotations

from ..tasks.text_to_image import Text, TextToImage, training_only
from .concept_prune import ConceptPrune
from .concepts import Concepts
from .fia import FIA, Neurons
from .uce import UCE

__all__: list[str] = [
    "ConceptPrune",
    "Concepts",
    "FIA",
    "Neurons",
    "Text",
    "TextToImage",
    "UCE",
    "training_only",
]
