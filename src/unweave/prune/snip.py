"""SNIP: at initialisation, keep the connections whose removal would change the loss most.

Lee, Ajanthan, Torr, "SNIP: Single-shot Network Pruning based on Connection Sensitivity", ICLR 2019,
arXiv 1810.02340, eq. 6: s = |g w| / sum of |g w|. Meant for an untrained network, which is then trained under
the mask.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import Module

from ..derivatives import mean_named_gradient, probe, spaced
from ..errors import InputError
from ..masks.patterns import Reduce
from ..masks.scope import Scope
from ..paper import Paper
from ..settings import Count, settings
from ..types import Data


@settings
class SNIP:
    """Score = |g w| over its sum, g the gradient of the mean loss of a few examples.

    Batch normalisation uses the batch's own statistics, dropout is off, and the model's running statistics
    stay as they are.

    Attributes:
        examples: how many, evenly spaced through the data (the paper: one mini-batch of 100 on MNIST, 128 on
            CIFAR).
        scope: which weights are scored.
    """

    examples: Count | None = 128
    scope: Scope = Scope()

    reduce: ClassVar[Reduce] = "sum"
    paper: ClassVar[Paper] = Paper(
        "SNIP: Single-shot Network Pruning based on Connection Sensitivity",
        "Lee, Ajanthan, Torr", "ICLR", 2019,
        "1810.02340",
    )  # fmt: skip

    def score(self, model: Module, data: Data[Any]) -> dict[str, Tensor]:
        """Normalised connection sensitivities; they sum to one over all layers.

        Raises:
            EmptyDataError: if there is no example.
            InputError: if every gradient is exactly zero.
        """
        data.require_examples("SNIP")
        with probe(model, self.scope, "batch") as (copy, weights):
            gradients = mean_named_gradient(copy, spaced(data, self.examples), weights)
        products = {name: (g * weights[name].detach()).abs() for name, g in gradients.items()}
        total = torch.stack([p.double().sum() for p in products.values()]).sum()
        if not total > 0:
            raise InputError(
                "SNIP: every product of weight and gradient is zero; is the last layer initialised to zero?"
            )
        return {name: (product / total).to(product.dtype) for name, product in products.items()}
