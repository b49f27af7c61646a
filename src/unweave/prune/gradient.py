"""Gradient: a weight matters as much as the loss depends on it, whatever its size."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor
from torch.nn import Module

from ..derivatives import mean_named_gradient, probe, spaced
from ..masks.scope import Scope
from ..paper import Paper
from ..settings import Count, settings
from ..types import Data


@settings
class Gradient:
    """Score = |dL/dw|, L the mean loss over the data in eval mode.

    Attributes:
        examples: how many, evenly spaced through the data, are read; None reads all.
        scope: which weights are scored.
    """

    examples: Count | None = None
    scope: Scope = Scope()

    paper: ClassVar[Paper] = Paper(
        "What is the State of Neural Network Pruning?",
        "Blalock, Gonzalez Ortiz, Frankle, Guttag", "MLSys", 2020,
        "2003.03033",
    )  # fmt: skip

    def score(self, model: Module, data: Data[Any]) -> dict[str, Tensor]:
        """Absolute gradients of the mean loss.

        Raises:
            EmptyDataError: if there is no example.
        """
        data.require_examples("Gradient")
        with probe(model, self.scope, "running") as (copy, weights):
            found = mean_named_gradient(copy, spaced(data, self.examples), weights)
        return {name: gradient.abs() for name, gradient in found.items()}
