"""Brain-OT: train an encoder from voxels to image tokens by partial optimal transport between the two sets of tokens.

Xiao, Lu, Ji et al., "Optimal Transport for Brain-Image Alignment: Unveiling Redundancy and Synergy in Neural
Information Processing", ICCV 2025, arXiv 2503.10663. Each sample's predicted tokens are matched with its image's
tokens: the plan that carries a share of the mass most cheaply is found without gradients, and the loss is what it
costs, with the plan held constant (which is its gradient, by the envelope theorem).

Decisions. The exact plan is an assignment, not a general linear programme (see `transport`). A loss between sets does
not know the order of tokens, which a model that reads them in raster order needs: `position_weight` adds the distance
of their places to the cost, and `mse` mixes in the plain squared error of token i and token i. Tokens that the plan
leaves out get no gradient: `unmatched` tells how many.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import Module

from ..errors import InputError
from ..paper import Paper
from ..settings import NonNegative, Part, Positive, Range, checked
from .transport import entropic_plan, exact_plan

Mass = Annotated[float, Range(above=0, at_most=1, why="It is the share of tokens that are matched.")]


class BrainOT(Module):
    """Partial optimal-transport loss between predicted and target tokens, a sample at a time.

    Args:
        mass: share of the tokens' mass that is matched; 1 matches all, the paper's default is half.
        cost: of two tokens: their "euclidean" distance (the paper's), its square "squared", or "cosine" distance.
        solver: "exact", on the CPU, or "entropic" by Sinkhorn's iteration, which runs anywhere at once.
        blur: of the entropic plan, as a share of the mean cost.
        position_weight: weight of the distance between tokens' places on their square grid, or line, in the cost.
        mse: weight of the mean squared error of tokens in place, against the transport's.

    Raises:
        InputError: if an argument is out of its range, or would do nothing.
    """

    paper: ClassVar[Paper] = Paper(
        "Optimal Transport for Brain-Image Alignment: Unveiling Redundancy and Synergy in Neural Information "
        "Processing",
        "Xiao, Lu, Ji et al.", "ICCV", 2025, "2503.10663",
    )  # fmt: skip

    @checked
    def __init__(
        self,
        mass: Mass = 0.5,
        cost: Literal["euclidean", "squared", "cosine"] = "euclidean",
        solver: Literal["exact", "entropic"] = "exact",
        blur: Positive = 0.05,
        position_weight: NonNegative = 0.0,
        mse: Part = 0.0,
    ) -> None:
        super().__init__()
        if solver == "exact" and blur != 0.05:
            raise InputError(f"BrainOT.blur={blur!r} would do nothing with solver='exact'. Leave it at 0.05.")
        self.mass, self.cost, self.solver, self.blur = mass, cost, solver, blur
        self.position_weight, self.mse = position_weight, mse

    def costs(self, predicted: Tensor, target: Tensor) -> Tensor:
        """Cost of every pair of tokens, float32 or wider, [b, t, s].

        Raises:
            InputError: if shapes are not [b, t, width] and [b, s, width].
        """
        if predicted.ndim != 3 or target.ndim != 3 or predicted.shape[::2] != target.shape[::2]:
            raise InputError(
                f"BrainOT compares tokens [b, t, width] and [b, s, width]; got {tuple(predicted.shape)} and "
                f"{tuple(target.shape)}."
            )
        x, y = (t if t.dtype in (torch.float32, torch.float64) else t.float() for t in (predicted, target))
        if self.cost == "cosine":
            x, y = (t / t.norm(dim=-1, keepdim=True).clamp(min=1e-8) for t in (x, y))
            found: Tensor = 1 - x @ y.mT
        else:
            squares = (x[:, :, None] - y[:, None]).square().sum(-1)
            # the root has no slope at 0: its gradient there is taken as 0
            roots = torch.where(squares > 0, squares, 1.0).sqrt() * (squares > 0)
            found = squares if self.cost == "squared" else roots
        if self.position_weight:
            found = found + self.position_weight * torch.cdist(
                _places(x.shape[1]).to(found), _places(y.shape[1]).to(found)
            )
        return found

    def plans(self, costs: Tensor) -> Tensor:
        """The plan of each sample, without gradient, of costs [b, t, s]; sums to `mass`."""
        costs = costs.detach()
        if self.solver == "entropic":
            return entropic_plan(costs, self.mass, blur=self.blur)
        return torch.stack([exact_plan(c, self.mass) for c in costs]).to(costs)

    def forward(self, predicted: Tensor, target: Tensor) -> Tensor:
        """Mean over samples of what their plans cost, of tokens [b, t, width] and [b, s, width].

        Raises:
            InputError: if shapes do not fit; with `mse` both must be the same.
        """
        costs = self.costs(predicted, target)
        loss = (self.plans(costs) * costs).sum((1, 2)).mean()
        if self.mse:
            if predicted.shape != target.shape:
                raise InputError(
                    f"BrainOT.mse compares tokens in place; got {predicted.shape[1]} and {target.shape[1]} of them."
                )
            loss = (1 - self.mse) * loss + self.mse * (predicted - target).square().mean()
        return loss

    def unmatched(self, predicted: Tensor, target: Tensor) -> float:
        """Share of predicted tokens that the plans leave out wholly: they get no gradient."""
        with torch.no_grad():
            carried = self.plans(self.costs(predicted, target)).sum(2)
        return float((carried < 1e-6 / predicted.shape[1]).float().mean())

    def extra_repr(self) -> str:
        """Settings, for `repr`."""
        return f"mass={self.mass}, cost={self.cost!r}, solver={self.solver!r}, mse={self.mse}"


def _places(tokens: int) -> Tensor:
    """Places on a square grid of side 1 where there are as many as one has, else on a line of length 1, [t, 2 or 1]."""
    side = round(tokens**0.5)
    if side * side == tokens:
        line = torch.linspace(0, 1, side) if side > 1 else torch.zeros(1)
        return torch.cartesian_prod(line, line)
    return torch.linspace(0, 1, tokens)[:, None]
