"""The weights that a method may move, as coordinates of one flat vector."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Weights = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Space:
    """The positions a method may move, as coordinates of one vector.

    Attributes:
        shapes: parameter name -> shape.
        living: parameter name -> flat int64 positions that live; a parameter it does not name lives whole.

    Example:
        >>> space = Space({"w": torch.Size([2, 2]), "b": torch.Size([1])}, {"w": torch.tensor([0, 3])})
        >>> space.size, space.tensors(torch.tensor([1.0, 2.0, 3.0]))["w"].tolist()
        (3, [[1.0, 0.0], [0.0, 2.0]])
    """

    shapes: Mapping[str, torch.Size]
    living: Mapping[str, Tensor]

    @property
    def size(self) -> int:
        """Coordinates, d."""
        return sum(self._length(name) for name in self.shapes)

    def vector(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Tensors of shape [*lead, *shape] as one of shape [*lead, d]."""
        parts = []
        for name, shape in self.shapes.items():
            tensor = tensors[name]
            flat = tensor.reshape(*tensor.shape[: tensor.ndim - len(shape)], shape.numel())
            parts.append(flat[..., self.living[name]] if name in self.living else flat)
        return torch.cat(parts, -1)

    def tensors(self, vector: Tensor) -> Weights:
        """A vector [d] as one tensor a parameter; exactly zero at dead positions."""
        lengths = [self._length(name) for name in self.shapes]
        out = {}
        parts = torch.split(vector, lengths)
        for (name, shape), part in zip(self.shapes.items(), parts, strict=True):
            if name in self.living:
                part = part.new_zeros(shape.numel()).index_copy(0, self.living[name], part)
            out[name] = part.reshape(shape)
        return out

    def _length(self, name: str) -> int:
        return len(self.living[name]) if name in self.living else self.shapes[name].numel()
