"""Mixtures of experts: condense, prune, merge."""

from .cd_moe import CDMoE, Choice
from .expert_pruning import ExpertPruning
from .hc_smoe import HCSMoE
from .mc_smoe import MCSMoE
from .naee import NAEE

__all__ = ["NAEE", "CDMoE", "Choice", "ExpertPruning", "HCSMoE", "MCSMoE"]
