"""GraSP: at initialisation, keep the weights without which the gradient would flow least.

Wang, Zhang, Grosse, "Picking Winning Tickets Before Training by Preserving Gradient Flow", ICLR 2020,
arXiv 2002.07376, eq. 8: S(-w) = -w * (H g); the weights with the LARGEST S are removed, for without them the
gradient's norm grows or shrinks least. Our convention is "higher is worth keeping", so the score is w * (H g), signed.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from torch import Tensor
from torch.nn import Module

from ..derivatives import mean_named_gradient, named_hessian_product, probe, spaced
from ..errors import InputError
from ..masks.patterns import Reduce
from ..masks.scope import Scope
from ..paper import Paper
from ..settings import Count, Range, settings
from ..types import Data


@settings
class GraSP:
    """Score = w * (H g), with g and the Hessian product H g both means over the same examples.

    The authors' code sums over halves of the batch; a mean differs by a factor only. Batch normalisation uses
    each batch's own statistics, dropout is off.

    Attributes:
        examples: how many, evenly spaced through the data (the paper: 10 a class).
        temperature: logits are divided by it, so that the softmax of an untrained network is near uniform.
        scope: which weights are scored.
    """

    examples: Count | None = 100
    temperature: Annotated[float, Range(above=0, why="The paper uses 200.")] = 200.0
    scope: Scope = Scope()

    reduce: ClassVar[Reduce] = "sum"
    paper: ClassVar[Paper] = Paper(
        "Picking Winning Tickets Before Training by Preserving Gradient Flow",
        "Wang, Zhang, Grosse", "ICLR", 2020,
        "2002.07376",
    )  # fmt: skip

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
            products = named_hessian_product(cooled, chosen, weights, gradient)
        return {name: weights[name].detach() * product for name, product in products.items()}


class _Cooled(Module):
    def __init__(self, model: Module, temperature: float) -> None:
        super().__init__()
        self.model, self.temperature = model, temperature

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        out = self.model(*args, **kwargs)
        logits = out.logits if hasattr(out, "logits") else out
        if not isinstance(logits, Tensor):
            raise InputError(
                f"GraSP divides the model's output by a temperature; a {type(self.model).__name__} returns a "
                f"{type(out).__name__}, not logits."
            )
        return logits / self.temperature
