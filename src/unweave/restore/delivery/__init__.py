"""Video delivered as a low-resolution stream and small networks overfitted to it: everything but the methods."""

from __future__ import annotations

from .backbones import BACKBONES, Backbone
from .clip import Audio, Clip, read_clip
from .container import Container
from .delivery import Delivery, Encoding, Report
from .overfitted import Overfits, Overfitted, Source
from .upscale import Upscaler

__all__ = [
    "BACKBONES", "Audio", "Backbone", "Clip", "Container", "Delivery", "Encoding", "Overfits", "Overfitted", "Report",
    "Source", "Upscaler", "read_clip",
]  # fmt: skip
