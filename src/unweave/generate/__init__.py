"""Drawing better and faster: guidance, one more step, self-improvement; on the pipelines that `erase` edits."""

from __future__ import annotations

from .agd import AGD, Adapters, adapted
from .apg import APG, Projected
from .drawing import draw, step_of
from .guidance import CFG, Guidance, Rule, Step
from .laptop_diff import Choice, LaptopDiff, feature_loss, knapsack
from .oms import OMS, Informed, OneMoreStep, latents_for
from .pictures import Pictures
from .removable import Unit, units_of, without
from .schedules import predicts, step_at
from .sims import SIMS, extrapolated
from .steering import as_guider, steered

__all__ = [
    "AGD",
    "Adapters",
    "adapted",
    "APG",
    "CFG",
    "OMS",
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
    "Pictures",
    "Projected",
    "Rule",
    "Step",
    "as_guider",
    "draw",
    "extrapolated",
    "latents_for",
    "predicts",
    "steered",
    "step_at",
    "step_of",
]
