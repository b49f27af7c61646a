"""A running mean of weights beside their training."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import Parameter


class RunningMean:
    """Keeps a share of itself and takes the rest from the weights, each time it follows them; float32.

    Args:
        weights: to follow; the mean begins at their values now.
        keep: share kept each time, in [0, 1).
    """

    def __init__(self, weights: Sequence[Parameter], keep: float) -> None:
        self._weights, self._keep = weights, keep
        self._mean = [p.detach().float().clone() for p in weights]

    @torch.no_grad()
    def follow(self) -> None:
        """Move towards the weights as they are now."""
        torch._foreach_lerp_(self._mean, [p.detach().float() for p in self._weights], 1 - self._keep)

    @torch.no_grad()
    def write_(self) -> None:
        """Put the mean in the weights' place."""
        for weight, kept in zip(self._weights, self._mean, strict=True):
            weight.copy_(kept)
