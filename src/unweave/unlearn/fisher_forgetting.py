"""Fisher forgetting: add noise that is large where the retain set does not care, and small where it does.

A. Golatkar, A. Achille, S. Soatto, Eternal Sunshine of the Spotless Net, CVPR 2020,
https://arxiv.org/abs/1911.04933, section 5. With D the diagonal of the Fisher information over the retain
set,
    w <- w + (alpha / D)^(1/4) e,   e ~ N(0, I),   alpha = lambda sigma_h^2:
among Gaussian noises of covariance S, this one minimises tr(D S) / 2, what the retain loss rises by, plus
lambda sigma_h^2 tr(S^-1) / 2, what S leaves of the forget set.

Departures: D is the mean of single-example squares under the model's own predictive distribution; the public
code squares the mean gradient of a batch. That code also has power 1/2 instead of 1/4 (`power`), pools
variances (`pool`), multiplies them by 10 in the last layer and in one-dimensional tensors (left out), and for
a class zeroes the class's row of the last layer (left out: it looks perfect and forgets nothing below). The
cap `largest_std` is ours in place of its caps on 1 / D.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from torch import Generator
from torch.nn import Module

from ..derivatives import Point, Weights
from ..masks.mask import Mask
from ..paper import Paper
from ..settings import Positive, Range, settings
from ..types import Request, Task
from ._train import check_request
from .suits import UNJUDGED, Unsuited


@settings
class FisherForgetting:
    """Noise on the weights, shaped by the retain set's Fisher information.

    Attributes:
        alpha: how much is forgotten; the noise variance is (alpha / D)^(2 power). With `power` 0.5 the
            literature searches 1e-9 to 1e-6.
        power: 0.25 as in the paper's equation, 0.5 as in the authors' code.
        eps: added to D.
        largest_std: cap on the standard deviation of one weight's noise, in weight units, for weights that
            the retain set does not determine at all (D near 0).
        pool: average the variance over each output unit's incoming weights, as the authors' code does.
    """

    alpha: Positive = 1e-8
    power: Annotated[float, Range(above=0, at_most=1, why="Use 0.5 (code) or 0.25 (paper).")] = 0.25
    eps: Positive = 1e-8
    largest_std: Positive = 0.2
    pool: bool = False

    paper: ClassVar[Paper] = Paper(
        "Eternal Sunshine of the Spotless Net: Selective Forgetting in Deep Networks",
        "Golatkar, Achille and Soatto", "CVPR", 2020, "1911.04933",
    )  # fmt: skip
    unsuited: ClassVar[Unsuited] = {
        "class": "ruins the model before it forgets (position 0.00)",
        "random": "hardly forgets (position 0.00 to 0.13)",
        "small": UNJUDGED,
    }

    def apply(self, model: Module, data: Request[Task], *, rng: Generator) -> Module:
        """Return a noisy copy of `model`; pruned zeros and frozen parameters stay.

        The forget set itself is not read: its trace is in the weights that the retain set does not hold in
        place.

        Raises:
            EmptyDataError: if the forget or the retain set is empty.
            InputError: if no weight may move.
        """
        check_request("FisherForgetting", data, rng)
        point = Point.of(model, data.retain.task, "FisherForgetting")
        diagonal = point.fisher_diagonal(data.retain)
        std = self.std(point.space.tensors(diagonal), Mask.of(model))
        noise = torch.randn(point.space.size, generator=rng).to(diagonal)
        return point.write(model, point.space.vector(std) * noise, "FisherForgetting")

    def std(self, diagonal: Weights, mask: Mask | None = None) -> Weights:
        """Standard deviation of each weight's noise, from the Fisher diagonal; shapes are kept.

        Args:
            diagonal: parameter name -> D.
            mask: dead positions take no part in pooled variances.

        Example:
            >>> FisherForgetting(alpha=0.04, power=0.5, largest_std=9).std({"w": torch.tensor([1.0, 4.0])})["w"]
            tensor([0.2000, 0.1000])
        """
        keep = mask.keep if mask is not None else {}
        out = {}
        for name, d in diagonal.items():
            variance = (self.alpha / (d + self.eps)).pow(2 * self.power).clamp(max=self.largest_std**2)
            if self.pool and d.ndim > 1:
                alive = keep[name].to(d) if name in keep else torch.ones_like(d)
                inner = tuple(range(1, d.ndim))
                living = alive.sum(inner, keepdim=True).clamp(min=1)
                variance = ((variance * alive).sum(inner, keepdim=True) / living).expand_as(d)
            out[name] = variance.sqrt()
        return out
