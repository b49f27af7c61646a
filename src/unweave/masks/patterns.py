"""Patterns: which weights live or die together.

A pattern turns the scores of one weight into scores of its groups, and a choice of groups back into a mask.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import isclose, prod
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import InputError, LeftDenseWarning
from ..settings import Count, refuse_idle, settings

Reduce = Literal["l2", "sum", "mean"]
Heads = Literal["groups", "queries"]


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
        m: weights in a group; layers whose input dimension it does not divide stay dense, see `fitting`.
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

    def misfit(self, shape: Sequence[int]) -> str:
        """Why a weight of this shape cannot be cut into groups; "" if it can."""
        inputs = shape[1] if len(shape) > 1 else 1
        return f"{self.m} does not divide its {inputs} inputs" if inputs % self.m else ""

    def group(self, name: str, scores: Tensor) -> Tensor:
        """Scores with each group in the last dimension, [..., in / m, m].

        Raises:
            InputError: if m does not divide the input dimension.
        """
        if self.misfit(scores.shape):
            raise InputError(
                f"{self} needs an input dimension divisible by {self.m}; {name} has shape {tuple(scores.shape)}. Leave "
                "it out of the scope (skip; --skip on the command line)."
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
            "mean", which does not favour layers with larger filters when the budget is global. None is what the score
            names in its `reduce`, and "l2" for one that names nothing.
        width: whether `Prune` also takes channels that a layer normalisation counts, which is the width of a
            transformer; `shrink` cuts those only knowingly, since outputs change.
        heads: what `Prune` takes of attention whose query heads share keys and values: "groups", a key-value head
            with all its queries; or "queries", as many query heads of each, which leaves keys and values, and their
            cache, whole. Where all queries share one key-value head it is "queries" anyway.
    """

    reduce: Reduce | None = None
    width: bool = True
    heads: Heads = "groups"

    def group(self, name: str, scores: Tensor) -> Tensor:
        """One score a filter, [out]."""
        rows = scores.flatten(1) if scores.ndim > 1 else scores[:, None]
        if self.reduce in (None, "l2"):
            norms: Tensor = torch.linalg.vector_norm(rows, dim=1)
            return norms
        return rows.sum(1) if self.reduce == "sum" else rows.mean(1)

    def spread(self, alive: Tensor, like: Tensor) -> Tensor:
        """Every entry takes its filter's fate."""
        whole: Tensor = alive.reshape(len(alive), *(1 for _ in like.shape[1:])).expand(like.shape)
        return whole.clone()


def suited(pattern: Pattern, score: Any) -> Pattern:
    """A pattern that pools scores as they ask for, where it was told nothing: `score.reduce` for `Channel`."""
    own: Reduce | None = getattr(score, "reduce", None)
    return (
        replace(pattern, reduce=own)
        if isinstance(pattern, Channel) and pattern.reduce is None and own
        else pattern
    )


def fitting(pattern: Pattern, shapes: Mapping[str, Sequence[int]]) -> set[str]:
    """Names of the weights that a pattern can be laid over; N:M leaves others dense, with a warning.

    Args:
        pattern: any; all but `NM` fit every weight.
        shapes: name -> shape of a weight in scope.

    Raises:
        InputError: if it fits none of them.
    """
    if not isinstance(pattern, NM):
        return set(shapes)
    misfits = {name: why for name, shape in shapes.items() if (why := pattern.misfit(shape))}
    if misfits:
        told = ", ".join(f"{name} ({why})" for name, why in list(misfits.items())[:5])
        told += f" and {len(misfits) - 5} more" if len(misfits) > 5 else ""
        if len(misfits) == len(shapes):
            raise InputError(f"{pattern} fits no weight in scope: {told}. Choose another m.")
        share = sum(prod(shapes[name]) for name in misfits) / sum(prod(shape) for shape in shapes.values())
        warnings.warn(
            f"{pattern} leaves {100 * share:.1f} % of the weights in scope dense: {told}.",
            LeftDenseWarning, stacklevel=3,
        )  # fmt: skip
    return set(shapes) - set(misfits)


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
    """Refuse a pattern that sets its own sparsity, or whole query heads, where sparsity rises step by step.

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
    if isinstance(of.pattern, Channel) and of.pattern.heads != "groups":
        raise InputError(
            f"{type(of).__name__} takes filters one by one; heads={of.pattern.heads!r} is read by Prune alone. "
            "Leave it out, or prune at once by Prune."
        )
