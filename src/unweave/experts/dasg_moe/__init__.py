"""DASG-MoE: attention in groups, experts of two depths, and a router that picks the depth; a reconstruction."""

from .attention import GroupedAttention
from .dasg_moe import DASGMoE
from .dual_scale import DualScaleExperts

__all__ = ["DASGMoE", "DualScaleExperts", "GroupedAttention"]
