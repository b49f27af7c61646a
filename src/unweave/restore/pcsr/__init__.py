"""PCSR: network, routing and training."""

from __future__ import annotations

from .network import PCSRNet
from .pcsr import PCSR, mixed_loss
from .routing import by_clusters, by_knob, knob_for, refined

__all__ = ["PCSR", "PCSRNet", "by_clusters", "by_knob", "knob_for", "mixed_loss", "refined"]
