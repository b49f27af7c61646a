"""unweave: take data, weights and experts out of trained neural networks, and prove what was done."""

from __future__ import annotations

from .fit import Fit, Step, fit_, resumable
from .fit.own_loop import OwnLoop
from .fit.recipe import Supervised
from .masks.mask import Mask
from .moved import install as _install_former_names
from .random import seeded
from .types import Data, Edit, Measure, Measurement, Recipe, Request, Score, Task

__version__ = "0.1.0"
_install_former_names()

__all__ = [
    "Data", "Edit", "Fit", "Mask", "Measure", "Measurement", "OwnLoop", "Recipe", "Request", "Score", "Step",
    "Supervised", "Task", "fit_", "resumable", "seeded",
]  # fmt: skip
