"""SalUn: let an unlearner move only the weights that matter most for the forget set.

Fan, Liu, Zhang, Wong, Wei, Liu, "SalUn: Empowering Machine Unlearning via Gradient-based Weight Saliency in
Both Image Classification and Generation", ICLR 2024, arXiv 2310.12508. The saliency mask is
m = 1[|grad_theta l_F(theta_o)| >= g] (equation 3), g such that a given share of all weights lives; the result
is m * (theta_o + delta) + (1 - m) * theta_o (equation 4), with delta found by any unlearner, random labels
unless told otherwise (equation 6).

Departures. Off the mask each weight keeps its bits: weight decay and momentum cannot move it, as they did in
the published code until a late fix. The gradient is summed over examples, not over batch means, so that the
mask does not depend on the batch size. Weights that a pruned model has lost are not candidates: the share is
of the living ones.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Generator, Tensor
from torch.nn import Module

from ..derivatives import probe, summed_gradients
from ..errors import InputError
from ..masks.budgets import Global
from ..masks.layers import free
from ..masks.mask import Mask
from ..masks.select import select
from ..paper import Paper
from ..settings import Range, refuse_idle, settings
from ..types import Data, Request
from ._train import Maskable, check_request
from .random_labels import RandomLabels
from .suits import UNJUDGED, Unsuited


@settings
class SalUn:
    """Forget with another unlearner, confined to the most salient weights.

    What it forgets is what the outputs show: a linear probe on the features still finds the forgotten set,
    and where random labels forget too little the mask makes them forget less.

    Attributes:
        density: k, share of the trainable, living weights (biases and normalisations among them) that may
            move; the paper uses the median as threshold, so 0.5.
        unlearn: what moves them: any unlearner of this family whose `apply` takes `only` (RandomLabels,
            FineTune, GradientAscent, NegGradPlus, L1Sparse).
        accumulate: how gradients add up over the forget set: "signed" sums them, so that the mask is that of
            the whole set's gradient (paper); "abs" and "squared" sum sizes or squares of batch gradients,
            which do not cancel at a converged model but depend on the batch size.
    """

    density: Annotated[
        float, Range(above=0, at_most=1, why="It is the share of weights allowed to move (paper: 0.5).")
    ] = 0.5
    unlearn: Maskable = RandomLabels()
    accumulate: Literal["signed", "abs", "squared"] = "signed"

    paper: ClassVar[Paper] = Paper(
        "SalUn: Empowering Machine Unlearning via Gradient-based Weight Saliency in Both Image "
        "Classification and Generation",
        "Fan, Liu, Zhang, Wong, Wei, Liu", "ICLR", 2024, "2310.12508",
    )  # fmt: skip
    unsuited: ClassVar[Unsuited] = {"small": UNJUDGED}

    def __post_init__(self) -> None:
        if self.density == 1:
            refuse_idle(self, "accumulate", when="with density=1, where every weight may move")

    def apply(self, model: Module, data: Request[Any], *, rng: Generator) -> Module:
        """Return an edited copy of `model` that equals it, bit for bit, off the saliency mask.

        Running statistics of batch normalisation are no weights: they follow the inner unlearner's `norms`.

        Raises:
            EmptyDataError: if the forget or the retain set is empty.
            InputError: if every parameter is frozen, or the loss does not depend on any.
            NonFiniteError: if training diverges.
        """
        check_request("SalUn", data, rng)
        return self.unlearn.apply(model, data, rng=rng, only=self.mask(model, data.forget))

    def mask(self, model: Module, forget: Data[Any]) -> Mask:
        """Which weights may move: exactly round(density * living weights), over every trainable parameter.

        One forward and one backward pass over `forget`, in eval mode; `model` is left unchanged. Equal scores
        are decided by position. A frozen parameter is not in the mask.

        Raises:
            EmptyDataError: if `forget` is empty.
            InputError: if every parameter is frozen, or every gradient is zero.
        """
        scores = saliency(model, forget, accumulate=self.accumulate)
        dead = Mask.of(model).keep
        living = {name: dead.get(name, torch.ones_like(s, dtype=torch.bool)) for name, s in scores.items()}
        candidates = torch.cat([s[living[name]] for name, s in scores.items()])
        chosen = select({"all": candidates}, budget=Global(1 - self.density)).keep["all"]
        counts = [int(alive.sum()) for alive in living.values()]
        return Mask(
            {
                name: torch.zeros_like(alive).masked_scatter(alive, part)
                for (name, alive), part in zip(living.items(), torch.split(chosen, counts), strict=True)
            }
        )


def saliency(
    model: Module, forget: Data[Any], *, accumulate: Literal["signed", "abs", "squared"] = "signed"
) -> dict[str, Tensor]:
    """Size of the gradient of the forget set's loss at each trainable weight.

    Args:
        model: left unchanged; read in eval mode.
        forget: n examples.
        accumulate: see `SalUn.accumulate`.

    Returns:
        Parameter name -> non-negative tensor of its shape, float32 or wider.

    Raises:
        EmptyDataError: if `forget` is empty.
        InputError: if every parameter is frozen, or every gradient is zero.
    """
    forget.require_examples("SalUn's saliency")
    free("SalUn", model)

    def fold(n: int, gradient: Tensor) -> Tensor:
        whole = n * gradient  # of the batch's summed losses
        return {"signed": whole, "abs": whole.abs(), "squared": whole.square()}[accumulate]

    with probe(model, None, "running") as (still, weights):
        sums = summed_gradients(still, forget, weights, fold)
    if not any(bool(total.any()) for total in sums.values()):
        raise InputError(
            "SalUn found no salient weight: the forget set's loss has no gradient at this model."
        )
    return {name: total.abs() for name, total in sums.items()}
