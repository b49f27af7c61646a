"""GraSP: at initialisation, keep the weights without which the gradient would flow least.

Wang, Zhang, Grosse, "Picking Winning Tickets Before Training by Preserving Gradient Flow", ICLR 2020,
arXiv 2002.07376, eq. 8: S(-w) = -w * (H g); the weights with the LARGEST S are removed, for without them the
gradient's norm grows or shrinks least. Our convention is "higher is worth keeping", so the score is w * (H
g), signed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import Module, Parameter

from ..derivatives import mean_named_gradient, probe, spaced
from ..errors import InputError
from ..masks.scope import Scope
from ..paper import Paper
from ..types import Data


@dataclass(frozen=True, kw_only=True)
class GraSP:
    """Score = w * (H g), with g and the Hessian product H g both means over the same examples.

    The authors' code sums over halves of the batch; a mean differs by a factor only. Batch normalisation uses
    each batch's own statistics, dropout is off.

    Attributes:
        examples: how many, evenly spaced through the data (the paper: 10 a class).
        temperature: logits are divided by it, so that the softmax of an untrained network is near uniform.
        scope: which weights are scored.
    """

    examples: int | None = 100
    temperature: float = 200.0
    scope: Scope = Scope()

    paper: ClassVar[Paper] = Paper(
        "Picking Winning Tickets Before Training by Preserving Gradient Flow",
        "Wang, Zhang, Grosse", "ICLR", 2020,
        "2002.07376",
    )  # fmt: skip
    needs: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise InputError(
                f"GraSP.temperature must be positive; got {self.temperature}. The paper uses 200."
            )

    def score(self, model: Module, data: Data[Any]) -> dict[str, Tensor]:
        """Signed scores: negative ones belong to weights whose removal strengthens the gradient.

        Raises:
            EmptyDataError: if there is no example.
        """
        data.require_examples("GraSP")
        chosen = spaced(data, self.examples)
        with probe(model, self.scope, "batch") as (copy, weights):
            cooled = _Cooled(copy, self.temperature)
            gradient = mean_named_gradient(cooled, chosen, weights)
            products = _hessian_product(cooled, chosen, weights, gradient)
        return {name: weights[name].detach() * product for name, product in products.items()}


class _Cooled(Module):
    def __init__(self, model: Module, temperature: float) -> None:
        super().__init__()
        self.model, self.temperature = model, temperature

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        out = self.model(*args, **kwargs)
        return (out.logits if hasattr(out, "logits") else out) / self.temperature


def _hessian_product(
    model: Module, data: Data[Any], weights: dict[str, Parameter], vector: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Hessian of the mean loss, restricted to `weights`, times `vector`."""
    total = {name: torch.zeros_like(v) for name, v in vector.items()}
    leaves = list(weights.values())
    for batch in data.batches():
        losses = data.task.losses(model, batch)
        gradients = torch.autograd.grad(losses.mean(), leaves, create_graph=True, allow_unused=True)
        pairs = zip(gradients, vector.values(), strict=True)
        along = torch.stack([(g * v).sum() for g, v in pairs if g is not None and g.requires_grad]).sum()
        for name, product in zip(weights, torch.autograd.grad(along, leaves, allow_unused=True), strict=True):
            if product is not None:
                total[name] += product.to(total[name].dtype) * (len(losses) / len(data))
    return total
