"""SuperInpaint: network, holes and training."""

from __future__ import annotations

from .holes import holes
from .network import SuperInpaintNet
from .superinpaint import SuperInpaint, place_loss

__all__ = ["SuperInpaint", "SuperInpaintNet", "holes", "place_loss"]
