"""Forget concepts in text-to-image diffusion models; attack the erasure; measure it."""

from __future__ import annotations

from ..tasks.text_to_image import Text, TextToImage, training_only
from .concepts import Concepts

__all__: list[str] = [
    "Concepts",
    "Text",
    "TextToImage",
    "training_only",
]
