"""Influence: one step towards the optimum without the forget set, an inverse curvature times a gradient.

P. W. Koh and P. Liang, ICML 2017, https://arxiv.org/abs/1703.04730 (how the optimum moves when examples are
dropped); inverse Fisher of S. P. Singh and D. Alistarh, WoodFisher, NeurIPS 2020,
https://arxiv.org/abs/2004.14340, section 3.

With mean losses L_D over all training data and L_R over the retain set, both at the given weights w,
    v = grad L_D - grad L_R = (1/n) sum_F grad - n_f / (n n_r) sum_R grad,    w <- w + scale H^-1 v.

Departures: the inverse is the paper's own, over N single-sample gradients; the code in public use keeps one
running vector for the inverse matrix (a rank-one surrogate) and feeds it batch gradients. Gradients and
curvature are taken in eval mode. Conjugate gradients on the true curvature is an alternative for small
networks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from torch import Generator, Tensor
from torch.nn import Module

from ..derivatives import Curvature, Point, conjugate_gradients, woodfisher
from ..errors import InputError
from ..paper import Paper
from ..settings import Count, Inner, Positive, refuse_idle, settings
from ..types import Data, Request
from ._train import check_request
from .suits import UNJUDGED, Unsuited

_SMALLEST, _LARGEST, _HALVINGS = 2.0**-14, 16.0, 6


@settings
class Influence:
    """Remove the forget set's first-order influence in one step.

    Attributes:
        scale: length of the step (a); 1 is the influence function's own, too long where the loss is not
            quadratic. "retain" searches the longest step at which the loss on the retain set has risen by no
            more than `slack`; "heldout" the longest at which the loss on the forget set has not passed that
            on held-out data (too short for whole classes).
        inverse: "woodfisher" inverts the mean of the outer products of single-sample gradients; "cg" solves
            with the curvature itself, exactly to `tolerance`, for small networks.
        samples: retain examples drawn for the WoodFisher inverse (N).
        damping: added to the diagonal of the curvature (lambda), in loss unit / (weight unit)^2; None takes
            1e-5 for "woodfisher", as that paper, and 1e-2 for "cg".
        curvature: for "cg": "ggn", the softmax Gauss-Newton matrix, never negative; or "hessian", for any
            loss.
        steps: curvature products at most, for "cg"; each is a pass over the retain set.
        tolerance: relative residual at which "cg" is done.
        slack: for the search "retain": nats that the retain loss may rise.
        memory_gib: for single-sample gradients; when N x weights does not fit, blocks of them are computed
            again.
    """

    scale: Positive | Literal["retain", "heldout"] = "retain"
    inverse: Literal["woodfisher", "cg"] = "woodfisher"
    samples: Count = 1000
    damping: Positive | None = None
    curvature: Curvature = "ggn"
    steps: Count = 500
    tolerance: Inner = 1e-3
    slack: Positive = 0.05
    memory_gib: Positive = 2.0

    paper: ClassVar[Paper] = Paper(
        "WoodFisher: Efficient Second-Order Approximation for Neural Network Compression",
        "Singh and Alistarh", "NeurIPS", 2020, "2004.14340",
    )  # fmt: skip
    unsuited: ClassVar[Unsuited] = {
        "class": "stops short of retrained models (position 0.44 to 0.80)",
        "random": "stops half way (position 0.48 to 0.66)",
        "small": UNJUDGED,
    }

    def __post_init__(self) -> None:
        if self.inverse == "cg":
            refuse_idle(self, "samples", "memory_gib", when="with inverse='cg'")
        else:
            refuse_idle(self, "curvature", "steps", "tolerance", when="with inverse='woodfisher'")
        if self.scale != "retain":
            refuse_idle(self, "slack", when="unless scale is 'retain'")

    def apply(self, model: Module, data: Request[Any], *, rng: Generator) -> Module:
        """Return a copy of `model` moved by one influence step; pruned zeros and frozen parameters stay.

        Raises:
            EmptyDataError: if the forget or the retain set is empty.
            InputError: if no weight may move, the curvature is not positive definite, conjugate gradients do
                not reach `tolerance`, or a search for `scale` finds no step.
            NonFiniteError: if the step is not finite.
        """
        check_request("Influence", data, rng)
        if self.scale == "heldout":
            check_request("Influence.scale='heldout'", data, rng, ["heldout"])
        point = Point.of(model, data.retain.task, "Influence")
        share = len(data.forget) / (len(data.forget) + len(data.retain))
        v = share * (point.gradient(data.forget) - point.gradient(data.retain))
        if self.inverse == "cg":
            product, damping = point.product(data.retain, self.curvature), self.damping or 1e-2
            step = conjugate_gradients(
                product, v, damping=damping, steps=self.steps, tolerance=self.tolerance
            )
        else:
            drawn = torch.randperm(len(data.retain), generator=rng)[: self.samples].sort().values
            step = self._woodfisher(point, data.retain.subset(drawn), v)
        return point.write(model, self._length(point, data, step) * step, "Influence")

    def _woodfisher(self, point: Point, sample: Data[Any], v: Tensor) -> Tensor:
        row_bytes = v.numel() * v.element_size()
        fits = int(self.memory_gib * 2**30 // row_bytes)
        size = len(sample) if fits >= len(sample) else max(1, fits // 2)  # two blocks meet in the Gram matrix
        blocks = -(-len(sample) // size)

        def block(i: int) -> Tensor:
            part = sample.subset(torch.arange(i * size, min((i + 1) * size, len(sample))))
            return torch.cat(list(point.gradient_rows(part)))

        damping = self.damping or 1e-5
        if blocks == 1:
            whole = block(0)
            return woodfisher(lambda _: whole, 1, v, damping)
        return woodfisher(block, blocks, v, damping)

    def _length(self, point: Point, data: Request[Any], step: Tensor) -> float:
        if not isinstance(self.scale, str):
            return self.scale
        if self.scale == "heldout":
            limit, watched = point.mean_loss(data.heldout), data.forget
        else:
            limit, watched = point.mean_loss(data.retain) + self.slack, data.retain
        if point.mean_loss(watched) >= limit:
            raise InputError(
                "Influence.scale='heldout' has nothing to do: the loss on the forget set is not below the "
                f"{limit:.3g} on held-out data. Give scale a number, or use 'retain'."
            )
        norm = float(step.norm())
        if norm == 0:
            raise InputError(
                "Influence found nothing to remove: the forget and the retain set have the same gradient."
            )
        unit = float(point.here.norm()) / norm or 1.0
        who = f"Influence.scale={self.scale!r}"
        return unit * crossing(lambda a: point.mean_loss(watched, a * unit * step) < limit, who=who)


def crossing(below: Callable[[float], bool], *, who: str) -> float:
    """Find where `below` turns false, to one part in 64: by doubling from 2^-14 up to 16, then halving.

    Args:
        below: of a step's length, as a share of the norm of the weights.
        who: searches, for the messages.

    Raises:
        InputError: if it is false at once, or true throughout.

    Example:
        >>> round(crossing(lambda a: a < 3, who="search"), 1)
        3.0
    """
    low = _SMALLEST
    if not below(low):
        raise InputError(
            f"{who} found that a step of {low:.1g} of the weights' norm is too long already. Raise damping."
        )
    while below(2 * low):
        low *= 2
        if low >= _LARGEST:
            raise InputError(
                f"{who} found no step long enough, up to {low:g} times the weights' norm. Give a number."
            )
    high = 2 * low
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if below(middle) else (low, middle)
    return low
