"""A model and its task as functions of the weights that may move."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import Module

from ..errors import InputError, NonFiniteError
from ..masks.layers import copied
from ..masks.mask import Mask
from ..tasks import refuse_measured
from ..types import Data
from .products import (
    Function,
    fisher_diagonal,
    functional,
    gradient_rows,
    hessian_product,
    mean_gradient,
    softmax_ggn_product,
)
from .solvers import Product
from .space import Space, Weights

Curvature = Literal["ggn", "hessian"]


@dataclass(frozen=True, eq=False)
class Point:
    """A model and its task as functions of the weights that may move, at the model's own weights.

    Trainable parameters are the coordinates, without the pruned zeros of `Mask.of`. Half-precision models are
    read in float32. Everything is in eval mode: batch normalisation uses its running statistics, so that an
    example's gradient does not depend on its batch.

    Attributes:
        space: coordinates.
        weights: where the model stands, by parameter name.
        losses: (weights, batch) -> [n].
        outputs: (weights, batch) -> [n, k].
    """

    space: Space
    weights: Weights
    losses: Function
    outputs: Function

    @classmethod
    def of(cls, model: Module, task: Any, who: str) -> Point:
        """Read off `model`, which is left unchanged.

        Raises:
            InputError: naming `who`, if no weight may move, or one is not finite.
        """
        copy = copied(model).eval()
        for tensor in [*copy.parameters(), *copy.buffers()]:
            if tensor.dtype in (torch.bfloat16, torch.float16):
                tensor.data = tensor.data.float()
        weights = {name: p.detach() for name, p in copy.named_parameters() if p.requires_grad}
        keep = Mask.of(copy).keep
        living = {n: keep[n].flatten().nonzero().flatten() for n in weights if n in keep}
        space = Space({name: w.shape for name, w in weights.items()}, living)
        if space.size == 0:
            raise InputError(
                f"{who} found no weight it may move. Set requires_grad on at least one parameter."
            )
        if not bool(space.vector(weights).isfinite().all()):
            raise InputError(f"{who} was given a model with infinite or NaN weights.")
        return cls(space, weights, functional(copy, task.losses), functional(copy, task.outputs))

    @property
    def here(self) -> Tensor:
        """The weights as a vector [d]."""
        return self.space.vector(self.weights)

    def gradient(self, data: Data[Any]) -> Tensor:
        """Gradient [d] of the mean loss over `data`."""
        return mean_gradient(self.losses, self.space, self.weights, data)

    def gradient_rows(self, data: Data[Any]) -> Iterator[Tensor]:
        """Gradients of the examples' own losses in order, in blocks [b, d] of about a quarter of a GiB."""
        return gradient_rows(self.losses, self.space, self.weights, data, self._rows)

    def fisher_diagonal(self, data: Data[Any]) -> Tensor:
        """Diagonal [d] of the Fisher information over `data`; see the function."""
        refuse_measured(data.task, "the Fisher diagonal")
        return fisher_diagonal(self.outputs, self.space, self.weights, data, self._rows)

    @property
    def _rows(self) -> int:
        """Gradients held at once; torch.func makes a few copies of what it computes."""
        return max(1, 2**28 // (self.space.size * self.here.element_size()))

    def product(self, data: Data[Any], curvature: Curvature) -> Product:
        """Multiply by the mean loss's Hessian ("hessian") or softmax Gauss-Newton matrix ("ggn")."""
        if curvature == "hessian":
            return lambda v: hessian_product(self.losses, self.space, self.weights, data, v)
        refuse_measured(data.task, 'curvature="ggn"')
        return lambda v: softmax_ggn_product(self.outputs, self.space, self.weights, data, v)

    def mean_loss(self, data: Data[Any], step: Tensor | None = None) -> float:
        """Mean loss over `data`, at the weights moved by `step` [d]."""
        at = self.weights if step is None else self._moved(step)
        with torch.no_grad():
            return float(sum(self.losses(at, batch).sum() for batch in data.batches())) / len(data)

    def write(self, model: Module, step: Tensor, who: str) -> Module:
        """A copy of `model`, in its own dtype, moved by `step` [d]; all other positions keep their bits.

        Raises:
            NonFiniteError: naming `who`, if a weight would become infinite or NaN.
        """
        if not bool((self.here + step).isfinite().all()):
            raise NonFiniteError(
                f"{who} would make a weight infinite or NaN; the model was kept. Raise damping."
            )
        moved, result = self._moved(step), copied(model)
        with torch.no_grad():
            for name, parameter in result.named_parameters():
                if name in moved:
                    parameter.copy_(moved[name])
        return result

    def _moved(self, step: Tensor) -> Weights:
        return {name: self.weights[name] + by for name, by in self.space.tensors(step).items()}
