"""Magnitude: a weight matters as much as it is large.

Han, Pool, Tran, Dally, "Learning both Weights and Connections for Efficient Neural Networks", NeurIPS 2015,
arXiv 1506.02626, section 3.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor
from torch.nn import Module

from ..masks.scope import Scope
from ..paper import Paper
from ..settings import settings
from ..types import Data


@settings
class Magnitude:
    """Score = |w|.

    Attributes:
        scope: which weights are scored.
    """

    scope: Scope = Scope()

    paper: ClassVar[Paper] = Paper(
        "Learning both Weights and Connections for Efficient Neural Networks",
        "Han, Pool, Tran, Dally", "NeurIPS", 2015, "1506.02626",
    )  # fmt: skip

    def score(self, model: Module, data: Data[Any]) -> dict[str, Tensor]:
        """Absolute weights; `data` is not read."""
        return {name: weight.detach().abs() for name, weight in self.scope.weights(model).items()}
