"""Methods for language models: make a model forget texts. Each reads a `Request[CausalLM]`."""

from __future__ import annotations

from .alt_po import AltPO
from .ce_u import CEU
from .dpo import DPO
from .grad_diff import GradDiff
from .idk import IDK
from .npo import NPO
from .pdu import PDU
from .rmu import RMU
from .sat_imp import SatImp
from .sim_npo import SimNPO
from .task_vector import TaskVector
from .undial import UNDIAL
from .wga import WGA
from .whp import WHP

__all__ = [
    "CEU", "DPO", "IDK", "NPO", "PDU", "RMU", "UNDIAL", "WGA", "WHP", "AltPO", "GradDiff", "SatImp", "SimNPO",
    "TaskVector",
]  # fmt: skip
