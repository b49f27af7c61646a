"""Prune: score x pattern x budget x schedule."""

from __future__ import annotations

from ..masks.budgets import ERK, Global, PerOutput, Uniform
from ..masks.patterns import NM, Block, Channel, Unstructured
from ..masks.scope import Scope
from ..masks.select import select
from ..masks.silence import silence
from ..masks.threshold import kth_largest
from .dsr import DSR
from .dynamic import StaticMask
from .exssnet import ExSSNeT, Supermasks
from .gmp import GMP
from .gradient import Gradient
from .grasp import GraSP
from .imp import IMP
from .itop import ITOP, Explored
from .magnitude import Magnitude
from .mest import MEST
from .mosa import MoSA, SplitAdapter
from .one_shot import Prune
from .paser import PASER, Selected
from .progressive_gradient_flow import ProgressiveNM
from .prosparse import FATReLU, ProSparse, SparseFeedForward, activation_sparsity, register_fatrelu
from .random_scores import RandomScores
from .recalibrate import recalibrate_
from .recovery import Recovery
from .rigl import RigL
from .semi_structured import to_semi_structured
from .set import SET
from .shrink import Shrunk, shrink
from .snip import SNIP
from .soft_filter import SoftFilter
from .sparse_gpt import SparseGPT
from .sparse_model_soups import SparseModelSoup
from .synflow import SynFlow, SynFlowPrune
from .taylor import Taylor
from .wanda import Wanda, WandaPrune

__all__ = [
    "DSR",
    "ExSSNeT",
    "Explored",
    "ITOP",
    "PASER",
    "MEST",
    "RigL",
    "SET",
    "ERK",
    "GMP",
    "IMP",
    "MoSA",
    "NM",
    "SparseFeedForward",
    "SplitAdapter",
    "SNIP",
    "Selected",
    "Block",
    "Channel",
    "Global",
    "GraSP",
    "Gradient",
    "Magnitude",
    "PerOutput",
    "FATReLU",
    "ProSparse",
    "ProgressiveNM",
    "Prune",
    "RandomScores",
    "Recovery",
    "Scope",
    "Shrunk",
    "SoftFilter",
    "SparseGPT",
    "SparseModelSoup",
    "StaticMask",
    "Supermasks",
    "SynFlow",
    "SynFlowPrune",
    "Taylor",
    "Uniform",
    "Unstructured",
    "Wanda",
    "WandaPrune",
    "activation_sparsity",
    "kth_largest",
    "recalibrate_",
    "register_fatrelu",
    "select",
    "shrink",
    "silence",
    "to_semi_structured",
]
