"""Patterns: which weights live or die together.

A pattern turns the scores of one weight into scores of its groups, and a choice of groups back into a mask.
"""

from __future__ import annotations

from math import isclose
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import InputError
from ..settings import Count, refuse_idle, settings

Reduce = Literal["l2", "sum", "mean"]


class Pattern(Protocol):
    """How the entries of one weight [out, in, ...] are tied together."""

    def group(self, name: str, scores: Tensor) -> Tensor:
        """Scores of one weight -> one score a group, to be compared with those of other groups."""
        ...

    def spread(self, alive: Tensor, like: Tensor) -> Tensor:
        """Bool tensor over groups -> bool tensor over the weight's entries."""
        ...


@settings(kw_only=False)
class Unstructured:
    """Every weight on its own."""

    def group(self, name: str, scores: Tensor) -> Tensor:
        """The scores as they are."""
        return scores

    def spread(self, alive: Tensor, like: Tensor) -> Tensor:
        """The choice as it is."""
        return alive


@settings(kw_only=False)
class NM:
    """n of every m consecutive weights along the input dimension live; the sparsity is 1 - n/m everywhere.

    For a convolution [out, in, h, w] the m weights are neighbours in `in`, at one kernel position.

    Attributes:
        n: weights that live, from 1 to m - 1.
        m: weights in a group; must divide the input dimension of every layer.
    """

    n: Count = 2
    m: Count = 4

    def __post_init__(self) -> None:
        if self.n >= self.m:
            raise InputError(f"NM needs n < m; got n={self.n}, m={self.m}. 2:4 is NM(2, 4).")

    @property
    def sparsity(self) -> float:
        """Share of the weights that it removes, 1 - n/m."""
        return 1 - self.n / self.m

    def __str__(self) -> str:
        return f"NM({self.n}, {self.m})"

    def group(self, name: str, scores: Tensor) -> Tensor:
        """Scores with each group in the last dimension, [..., in / m, m].

        Raises:
            InputError: if m does not divide the input dimension.
        """
        if scores.ndim < 2 or scores.shape[1] % self.m:
            raise InputError(
                f"NM({self.n}, {self.m}) needs an input dimension divisible by {self.m}; {name} has shape "
                f"{tuple(scores.shape)}. Leave it out of the score (skip=...)."
            )
        last = scores.movedim(1, -1)
        return last.reshape(*last.shape[:-1], -1, self.m)

    def spread(self, alive: Tensor, like: Tensor) -> Tensor:
        """Back to the weight's shape."""
        return alive.flatten(-2).movedim(-1, 1).contiguous()


@settings(kw_only=False)
class Block:
    """Blocks of rows x columns of the weight seen as a matrix [out, in * h * w] live or die whole.

    Blocks at the lower and right edges are cut off where the matrix ends.

    Attributes:
        rows: height of a block, in output units.
        columns: width of a block, in inputs.
        reduce: score of a block: "mean" of its weights' scores, their "sum", or "l2", the root of the mean
            square.
    """

    rows: Count
    columns: Count
    reduce: Reduce = "mean"

    def group(self, name: str, scores: Tensor) -> Tensor:
        """One score a block, [ceil(rows / block rows), ceil(columns / block columns)]."""
        matrix = scores.flatten(1) if scores.ndim > 1 else scores[:, None]
        values = matrix.square() if self.reduce == "l2" else matrix
        total = self._pooled(values)
        if self.reduce == "sum":
            return total
        mean = total / self._pooled(matrix.new_ones(matrix.shape))
        return mean.sqrt() if self.reduce == "l2" else mean

    def spread(self, alive: Tensor, like: Tensor) -> Tensor:
        """Every entry takes its block's fate."""
        width = like[0].numel() if like.ndim > 1 else 1
        whole = alive.repeat_interleave(self.rows, 0).repeat_interleave(self.columns, 1)
        return whole[: like.shape[0], :width].reshape(like.shape)

    def _pooled(self, matrix: Tensor) -> Tensor:
        below, right = -matrix.shape[0] % self.rows, -matrix.shape[1] % self.columns
        padded = F.pad(matrix, (0, right, 0, below))
        high, wide = padded.shape[0] // self.rows, padded.shape[1] // self.columns
        return padded.reshape(high, self.rows, wide, self.columns).sum((1, 3))


@settings(kw_only=False)
class Channel:
    """Whole output filters (rows of a linear layer, kernels of a convolution) live or die.

    Attributes:
        reduce: score of a filter from those of its weights: "l2", the root of their summed squares; "sum"; or
            "mean", which does not favour layers with larger filters when the budget is global.
    """

    reduce: Reduce = "l2"

    def group(self, name: str, scores: Tensor) -> Tensor:
        """One score a filter, [out]."""
        rows = scores.flatten(1) if scores.ndim > 1 else scores[:, None]
        if self.reduce == "l2":
            norms: Tensor = torch.linalg.vector_norm(rows, dim=1)
            return norms
        return rows.sum(1) if self.reduce == "sum" else rows.mean(1)

    def spread(self, alive: Tensor, like: Tensor) -> Tensor:
        """Every entry takes its filter's fate."""
        whole: Tensor = alive.reshape(len(alive), *(1 for _ in like.shape[1:])).expand(like.shape)
        return whole.clone()


def refuse_own_sparsity(of: Any, name: str, sparsity: float) -> None:
    """Refuse a sparsity beside a pattern that sets another one.

    Args:
        of: settings with a `pattern`.
        name: of their field that says how much lives; at its default it passes.
        sparsity: that it asks for.

    Raises:
        InputError: naming both.
    """
    if isinstance(of.pattern, NM) and not isclose(of.pattern.sparsity, sparsity):
        refuse_idle(of, name, when=f"since {of.pattern} sets its own sparsity, {of.pattern.sparsity:g}")


def require_rising(of: Any, instead: str) -> None:
    """Refuse a pattern that sets its own sparsity where sparsity rises step by step.

    Args:
        of: settings with a `pattern`.
        instead: what to use with such a pattern.

    Raises:
        InputError: naming both.
    """
    if isinstance(of.pattern, NM):
        raise InputError(
            f"{type(of).__name__} removes weights step by step; {of.pattern} sets its own sparsity, at once. "
            f"Use {instead}."
        )
