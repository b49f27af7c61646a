"""Taylor: the squared first-order estimate of how much the loss changes when a weight is set to zero.

Molchanov, Mallya, Tyree, Frosio, Kautz, "Importance Estimation for Neural Network Pruning", CVPR 2019,
arXiv 1906.10771, eq. 3: I = (g w)^2, here averaged over mini-batches. Filters are ranked by the sum over their weights
(eq. 8 sums g w of a group before squaring; summing the squares instead is the paper's own alternative).
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import Module

from ..derivatives import batch_gradients, probe, spaced
from ..masks.patterns import Reduce
from ..masks.scope import Scope
from ..paper import Paper
from ..settings import Count, settings
from ..types import Data


@settings
class Taylor:
    """Score = mean over mini-batches of (g w)^2, g a batch's mean gradient in eval mode; its size matters.

    Attributes:
        examples: how many, evenly spaced through the data, are read; None reads all.
        scope: which weights are scored.
    """

    examples: Count | None = None
    scope: Scope = Scope()

    reduce: ClassVar[Reduce] = "sum"
    paper: ClassVar[Paper] = Paper(
        "Importance Estimation for Neural Network Pruning",
        "Molchanov, Mallya, Tyree, Frosio, Kautz", "CVPR", 2019,
        "1906.10771",
    )  # fmt: skip

    def score(self, model: Module, data: Data[Any]) -> dict[str, Tensor]:
        """Squared products of gradient and weight, averaged over batches.

        Raises:
            EmptyDataError: if there is no example.
        """
        data.require_examples("Taylor")
        chosen = spaced(data, self.examples)
        with probe(model, self.scope, "running") as (copy, weights):
            total = {name: torch.zeros_like(w, dtype=torch.float64) for name, w in weights.items()}
            for n, gradients in batch_gradients(copy, chosen, weights):
                for name, gradient in gradients.items():
                    total[name] += (gradient * weights[name].detach()).double().square() * (n / len(chosen))
        return total
