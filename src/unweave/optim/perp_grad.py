"""PerpGrad: forbid lowering the loss by scaling the weights.

Prieto, Barsbey, Mediano, Birdal, "Grokking at the Edge of Numerical Stability", ICLR 2025, arXiv 2501.04697: each
tensor's gradient g becomes g - (w.g / w.w) w, scaled back to its old length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated, Any, ClassVar, final

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

from ..errors import InputError
from ..paper import Paper
from ..settings import Range, checked
from .vectors import wide
from .wrapper import Closure, Wrapper


@final
class PerpGrad(Wrapper):
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
        InputError: if a setting is out of its range, or there is a cap on no rescaling.
    """

    paper: ClassVar[Paper] = Paper(
        "Grokking at the Edge of Numerical Stability",
        "Prieto, Barsbey, Mediano, Birdal",
        "ICLR",
        2025,
        "2501.04697",
    )

    @checked
    def __init__(
        self, params: Iterable[Any], base: Callable[..., Optimizer] = AdamW, *, rescale: bool = True,
        cap: Annotated[float, Range(at_least=1, why="It bounds the rescaling.")] = 1e6, vectors: bool = False,
        **keywords: Any,
    ) -> None:  # fmt: skip
        if not rescale and cap != 1e6:
            raise InputError(f"PerpGrad.cap does nothing without rescale; got {cap}. Leave one of them out.")
        super().__init__(params, base, keywords)
        self.rescale, self.cap, self.vectors = rescale, cap, vectors

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> Tensor | None:  # type: ignore[override]
        """Project the gradients (those of `closure`, or those that are there) and step."""
        loss = None if closure is None else self.gradient(closure)
        weights = [p for p in self.trained() if p.ndim > 1 or (self.vectors and p.numel() > 1)]
        for p, gradient in zip(weights, self.gradients(weights), strict=True):
            gradient.copy_(orthogonal(p, gradient, rescale=self.rescale, cap=self.cap))
        self.base.step()
        return loss


def orthogonal(weight: Tensor, gradient: Tensor, *, rescale: bool = True, cap: float = 1e6) -> Tensor:
    """The part of a gradient orthogonal to the weight, scaled to the gradient's length; float32 or wider inside."""
    dtype = wide(weight.dtype)
    w, g = weight.detach().flatten().to(dtype), gradient.flatten().to(dtype)
    square = w @ w
    apart = g - (w @ g / square) * w if square > 0 else g
    if rescale:
        length, left = g.norm(), apart.norm()
        apart = apart * (length / left).clamp(max=cap) if left > 0 else apart
    return apart.view_as(gradient).to(gradient.dtype)
