"""Random scores: the floor that every other score must beat."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import Module

from ..masks.scope import Scope
from ..paper import Paper
from ..random import seeded
from ..settings import Whole, settings
from ..types import Data


@settings
class RandomScores:
    """Score = uniform noise in [0, 1), of neither weights nor data.

    Attributes:
        seed: of the noise; None draws from torch's global generator, which `Prune` seeds from its `rng`.
        scope: which weights are scored.
    """

    seed: Whole | None = None
    scope: Scope = Scope()

    paper: ClassVar[Paper] = Paper(
        "The Unreasonable Effectiveness of Random Pruning: Return of the Most Naive Baseline for Sparse "
        "Training",
        "Liu, Chen, Chen, Shen, Mocanu, Wang, Pechenizkiy", "ICLR", 2022, "2202.02643",
    )  # fmt: skip

    def score(self, model: Module, data: Data[Any]) -> dict[str, Tensor]:
        """Noise, float32, the same on every device; `data` is not read."""
        rng = torch.default_generator if self.seed is None else seeded(self.seed)
        weights = self.scope.weights(model)
        return {name: torch.rand(w.shape, generator=rng).to(w.device) for name, w in weights.items()}
