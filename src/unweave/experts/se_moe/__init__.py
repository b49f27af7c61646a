"""SE-MoE's parts for one small machine: experts kept elsewhere, caches, hierarchical exchange, planning."""

from .all_to_all import Hierarchy, flat_all_to_all, hierarchical_all_to_all
from .cache import ExpertCache, ExpertStore
from .planner import Plan, plan_workers
from .ring import Offloaded
from .se_moe import SEMoE

__all__ = [
    "ExpertCache",
    "ExpertStore",
    "Hierarchy",
    "Offloaded",
    "Plan",
    "SEMoE",
    "flat_all_to_all",
    "hierarchical_all_to_all",
    "plan_workers",
]
