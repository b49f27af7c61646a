"""Mixtures of experts: condense, prune, merge."""

from .cd_moe import CDMoE, Choice
from .expert_pruning import ExpertPruning
from .naee import NAEE

__all__ = ["NAEE", "CDMoE", "Choice", "ExpertPruning"]
