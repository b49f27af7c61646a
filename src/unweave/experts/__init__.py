"""Mixtures of experts: condense, prune, merge, route, contrast."""

from .cd_moe import CDMoE, Choice
from .expert_pruning import ExpertPruning
from .hc_smoe import HCSMoE
from .mc_smoe import MCSMoE
from .momentum_smoe import Momentum, MomentumSMoE
from .naee import NAEE
from .scmoe import SCMoE
from .uoe import UOE

__all__ = [
    "NAEE",
    "UOE",
    "CDMoE",
    "Choice",
    "ExpertPruning",
    "HCSMoE",
    "MCSMoE",
    "Momentum",
    "MomentumSMoE",
    "SCMoE",
]
