"""Mixtures of experts: condense, prune, merge, route, contrast."""

from .cd_moe import CDMoE, Choice
from .clip_moe import CLIPMoE
from .dasg_moe import DASGMoE, DualScaleExperts, GroupedAttention
from .expert_pruning import ExpertPruning
from .hc_smoe import HCSMoE
from .mc_smoe import MCSMoE
from .momentum_smoe import Momentum, MomentumSMoE
from .naee import NAEE
from .scmoe import SCMoE
from .se_moe import SEMoE
from .uncurl import UNCURL, Merging
from .uoe import UOE

__all__ = [
    "NAEE",
    "UNCURL",
    "UOE",
    "CDMoE",
    "CLIPMoE",
    "Choice",
    "DASGMoE",
    "DualScaleExperts",
    "ExpertPruning",
    "GroupedAttention",
    "HCSMoE",
    "MCSMoE",
    "Merging",
    "Momentum",
    "MomentumSMoE",
    "SCMoE",
    "SEMoE",
]
