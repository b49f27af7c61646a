"""Budgets: how much of each layer lives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Annotated, Protocol

from ..settings import NonNegative, Range, settings

Sparsity = Annotated[float, Range(at_least=0, below=1, why="It is the share of weights to remove.")]


class Budget(Protocol):
    """How many of the groups live."""

    @property
    def sparsity(self) -> float:
        """Share to remove, in [0, 1)."""
        ...

    def densities(self, shapes: Mapping[str, Sequence[int]]) -> dict[str, float] | None:
        """Layer name -> share of it that lives; None if all layers are compared with one another."""
        ...


@settings(kw_only=False)
class Uniform:
    """The same sparsity in every layer.

    Attributes:
        sparsity: share of weights to remove.
    """

    sparsity: Sparsity

    def densities(self, shapes: Mapping[str, Sequence[int]]) -> dict[str, float] | None:
        """1 - sparsity everywhere."""
        return dict.fromkeys(shapes, 1 - self.sparsity)


@settings(kw_only=False)
class Global:
    """One threshold for all layers together.

    Attributes:
        sparsity: share of weights to remove over all layers.
    """

    sparsity: Sparsity

    def densities(self, shapes: Mapping[str, Sequence[int]]) -> dict[str, float] | None:
        """None: left to the scores."""
        return None


@settings(kw_only=False)
class PerOutput:
    """The same sparsity for every output unit on its own: weights are compared only within their row (Wanda).

    Attributes:
        sparsity: share of each row [in, h, w] to remove.
    """

    sparsity: Sparsity

    def densities(self, shapes: Mapping[str, Sequence[int]]) -> dict[str, float] | None:
        """1 - sparsity everywhere."""
        return dict.fromkeys(shapes, 1 - self.sparsity)


@settings(kw_only=False)
class ERK:
    """Erdos-Renyi-Kernel: a layer's density is proportional to (sum of its dimensions) / (product of them).

    Layers that would come out denser than 1 are kept whole and the rest is scaled again, until all fit
    (Evci et al., 2020, "Rigging the Lottery", arXiv 1911.11134, section 3).

    Attributes:
        sparsity: share of weights to remove over all layers.
        power: exponent of the ratio; 0 is uniform.

    Example:
        >>> ERK(0.5).densities({"small": (2, 4), "large": (20, 20)})
        {'small': 1.0, 'large': 0.49...}
    """

    sparsity: Sparsity
    power: NonNegative = 1.0

    def densities(self, shapes: Mapping[str, Sequence[int]]) -> dict[str, float] | None:
        """Layer name -> density; the densities weighted by layer sizes give exactly 1 - sparsity."""
        size = {name: prod(shape) for name, shape in shapes.items()}
        raw = {name: (sum(shape) / size[name]) ** self.power for name, shape in shapes.items()}
        whole: set[str] = set()
        budget = (1 - self.sparsity) * sum(size.values())
        while len(whole) < len(size):
            left = budget - sum(size[name] for name in whole)
            scale = left / sum(raw[name] * size[name] for name in size if name not in whole)
            over = {name for name in size if name not in whole and raw[name] * scale > 1}
            if not over:
                return {name: 1.0 if name in whole else raw[name] * scale for name in size}
            whole |= {name for name in over if raw[name] == max(raw[other] for other in over)}
        return dict.fromkeys(size, 1.0)
