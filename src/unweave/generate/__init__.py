"""Drawing better and faster: guidance, one more step, self-improvement; on the pipelines that `erase` edits."""

from __future__ import annotations

from .agd import AGD, Adapters, adapted
from .apg import APG, Projected
from .code_ode import CODE, confident, sdedit
from .drawing import draw, step_of
from .guidance import CFG, Guidance, Rule, Step
from .laptop_diff import Choice, LaptopDiff, feature_loss, knapsack
from .oms import OMS, Informed, OneMoreStep, latents_for
from .pictures import Pictures
from .priors import Prior
from .removable import Unit, units_of, without
from .schedules import predicts, step_at
from .sim import SIM, OneStep, mismatch
from .sims import SIMS, extrapolated
from .steering import as_guider, steered

__all__ = [
    "AGD",
    "Adapters",
    "adapted",
    "APG",
    "CFG",
    "CODE",
    "OMS",
    "SIM",
    "SIMS",
    "Choice",
    "LaptopDiff",
    "Unit",
    "feature_loss",
    "knapsack",
    "units_of",
    "without",
    "Guidance",
    "Informed",
    "OneMoreStep",
    "OneStep",
    "Pictures",
    "Prior",
    "Projected",
    "Rule",
    "Step",
    "as_guider",
    "confident",
    "draw",
    "extrapolated",
    "latents_for",
    "mismatch",
    "predicts",
    "steered",
    "step_at",
    "sdedit",
    "step_of",
]
