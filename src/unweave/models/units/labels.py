"""Labels: which unit of which layer every position of a tensor belongs to, and what ties units together.

A field is an int64 tensor of the shape of the tensor that it labels. Along a dimension where it says nothing its stride
is 0, so that a field costs next to nothing; a tensor may have several, such as a weight's rows and columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor

Fields = list[Tensor]


def lean(field: Tensor) -> Tensor:
    """The same labels with stride 0 along every dimension where they are the same."""
    for dim in varying(field):
        small = core(field)
        first = small.narrow(dim, 0, 1)
        if bool((small == first).all()):
            field = field.narrow(dim, 0, 1).expand(field.shape)
    return field


def varying(field: Tensor) -> tuple[int, ...]:
    """Dimensions along which a lean field differs."""
    return tuple(d for d in range(field.ndim) if field.shape[d] > 1 and field.stride(d) != 0)


def core(field: Tensor) -> Tensor:
    """A field of size 1 along every dimension where it says nothing."""
    for dim in range(field.ndim):
        if field.shape[dim] > 1 and field.stride(dim) == 0:
            field = field.narrow(dim, 0, 1)
    return field


class Ledger:
    """Labels that were given out, and which of them stand or fall together."""

    def __init__(self) -> None:
        self.size = 0
        self.pairs: list[tuple[Tensor, Tensor]] = []
        self.whys: list[tuple[Tensor, str]] = []
        self.read: list[Tensor] = []
        self.made: list[Tensor] = []
        self.counted: list[Tensor] = []
        self.pinned: list[Tensor] = []
        self.copies: list[tuple[Tensor, Tensor]] = []

    def fresh(self, n: int) -> Tensor:
        """N new labels."""
        self.size += n
        return torch.arange(self.size - n, self.size)

    def join(self, a: Tensor, b: Tensor) -> None:
        """Tie two fields position by position; they broadcast."""
        left, right = core(a), core(b)
        shape = (left + right).shape
        self.pairs.append((left.expand(shape).reshape(-1), right.expand(shape).reshape(-1)))

    def merge(self, field: Tensor, dim: int, why: str = "") -> Tensor:
        """Tie all positions along a dimension to one, and return the field that no longer differs there."""
        small = core(field)
        first = small.narrow(dim, 0, 1)
        self.pairs.append((first.expand_as(small).reshape(-1), small.reshape(-1)))
        if why:
            self.whys.append((first.reshape(-1), why))
        return field.narrow(dim, 0, 1).expand(field.shape)

    def copied(self, field: Tensor, dims: Sequence[int]) -> Tensor:
        """New labels for positions that repeat others along some dimensions: a copy may go without its like."""
        small = core(field)
        shape = [field.shape[d] if d in dims else n for d, n in enumerate(small.shape)]
        own = self.fresh(prod(shape)).view(shape)
        self.copies.append((small.expand(shape).reshape(-1), own.reshape(-1)))
        return own.expand(field.shape)

    def fix(self, fields: Sequence[Tensor], why: str) -> None:
        """Tie all that is labelled, since nothing of it may go."""
        for field in fields:
            for dim in varying(field):
                field = self.merge(field, dim, why)

    def units(self, *, apart: bool = False) -> np.ndarray:
        """Number of the unit that every label belongs to, [labels]; `apart` from what copies repeat."""
        pairs = self.pairs if apart else [*self.pairs, *self.copies]
        if not pairs:
            return np.arange(self.size)
        a, b = (torch.cat([p[side] for p in pairs]).numpy() for side in (0, 1))
        graph = coo_matrix((np.ones(len(a), dtype=np.int8), (a, b)), shape=(self.size, self.size))
        found: np.ndarray = connected_components(graph, directed=False)[1]
        return found
