"""PerpGrad: forbid lowering the loss by scaling the weights.

Prieto, Barsbey, Mediano, Birdal, "Grokking at the Edge of Numerical Stability", ICLR 2025, arXiv 2501.04697: each
tensor's gradient g becomes g - (w.g / w.w) w, scaled back to its old length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

from ..errors import InputError
from ..paper import Paper
from ._sharpness import Closure, Sharpness


class PerpGrad(Sharpness):
    """Any optimiser, on gradients orthogonal to the weights.

    Tensors of one dimension (biases, norms) are left alone unless `vectors`: there the projection would freeze
    single numbers for ever; the authors' code, and `pytorch_optimizer.OrthoGrad`, project them too. Weight decay is
    the base's business and not projected.

    Args:
        params: parameters or groups.
        base: makes the optimiser that steps.
        rescale: restore the gradient's length (as the authors do); False leaves the plain projection.
        cap: largest factor of that; a gradient almost parallel to the weights leaves a residue of rounding errors.
        vectors: project tensors of one dimension too, but for single numbers.
        keywords: for the base, such as lr.

    Raises:
        InputError: if cap is below 1.
    """

    paper: ClassVar[Paper] = Paper(
        "Grokking at the Edge of Numerical Stability",
        "Prieto, Barsbey, Mediano, Birdal",
        "ICLR",
        2025,
        "2501.04697",
    )
    needs: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self, params: Iterable[Any], base: Callable[..., Optimizer] = AdamW, *, rescale: bool = True,
        cap: float = 1e6, vectors: bool = False, **keywords: Any,
    ) -> None:  # fmt: skip
        if not cap >= 1:
            raise InputError(f"PerpGrad: cap must be at least 1; got {cap}. It bounds the rescaling.")
        super().__init__(params, base, settings={}, **keywords)
        self.rescale, self.cap, self.vectors = rescale, cap, vectors

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> Tensor | None:  # type: ignore[override]
        """Project the gradients (those of `closure`, or those that are there) and step."""
        loss = None if closure is None else self.gradient(closure)
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None and (p.ndim > 1 or (self.vectors and p.numel() > 1)):
                    p.grad.copy_(orthogonal(p, p.grad, rescale=self.rescale, cap=self.cap))
        self.base.step()
        return loss


def orthogonal(weight: Tensor, gradient: Tensor, *, rescale: bool = True, cap: float = 1e6) -> Tensor:
    """The part of a gradient orthogonal to the weight, scaled to the gradient's length; float32 or wider inside."""
    dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
    w, g = weight.detach().flatten().to(dtype), gradient.flatten().to(dtype)
    square = w @ w
    apart = g - (w @ g / square) * w if square > 0 else g
    if rescale:
        length, left = g.norm(), apart.norm()
        apart = apart * (length / left).clamp(max=cap) if left > 0 else apart
    return apart.view_as(gradient).to(gradient.dtype)


def nlm_cosine(weights: Iterable[Tensor]) -> float:
    """Cosine between the descent direction and the weights, both as one vector: 1 if a step only scales them up.

    "Naive loss minimisation": for networks that are positively homogeneous such a step changes no answer.
    """
    pairs = [(w.detach().double(), w.grad.double()) for w in weights if w.grad is not None]
    inner = sum(float((w * g).sum()) for w, g in pairs)
    sizes = sum(float(w.square().sum()) for w, _ in pairs) * sum(float(g.square().sum()) for _, g in pairs)
    return -inner / sizes**0.5 if sizes > 0 else 0.0
