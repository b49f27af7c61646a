"""Mixtures of experts inside a model, found and read by structure."""

from .apart import HeldApart
from .blocks import MoE, experts_in, moe_layers
from .cut import expert_count, keep_experts_, require_count
from .dense import Condensed, Dense, Trimmed
from .matrices import Layout, Matrices
from .record import rebuilt_, record_of
from .reroute import rerouting
from .skipping import Skipping, skip_
from .tied import Tied, tie_
from .watch import Routed, present_rows, route_once, watching

__all__ = [
    "Condensed",
    "Dense",
    "HeldApart",
    "Layout",
    "Matrices",
    "MoE",
    "Routed",
    "Skipping",
    "Tied",
    "Trimmed",
    "expert_count",
    "experts_in",
    "keep_experts_",
    "moe_layers",
    "present_rows",
    "rebuilt_",
    "record_of",
    "require_count",
    "rerouting",
    "route_once",
    "skip_",
    "tie_",
    "watching",
]
