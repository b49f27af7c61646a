"""CLIP-MoE: feed-forwards tuned in stages, each on what the former could not tell apart, become experts."""

from .clip_moe import CLIPMoE, averaged
from .stages import Stages, cluster_batches, pseudo_labels

__all__ = ["CLIPMoE", "Stages", "averaged", "cluster_batches", "pseudo_labels"]
