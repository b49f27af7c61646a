"""SubGM: recover a low-rank matrix from measurements of which many are wrong, without knowing its rank.

Ma, Fattahi, "Global Convergence of Sub-gradient Method for Robust Matrix Recovery: Small Initialization, Noisy
Measurements, and Over-parameterization", JMLR 2023, arXiv 2202.08788: descend the l1 loss of U U^T along
sub-gradients from a small spectral start.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Protocol

import torch
from torch import Tensor

from ..errors import InputError
from ..paper import Paper
from ..settings import Count, Inner, NonNegative, Part, Positive, Range, settings


class Measurements(Protocol):
    """m linear measurements <A_i, X> of a matrix."""

    @property
    def shape(self) -> tuple[int, int]:
        """Of X."""
        ...

    def of(self, x: Tensor) -> Tensor:
        """All measurements of X, [m]."""
        ...

    def back(self, weights: Tensor) -> Tensor:
        """sum_i weights_i A_i, of X's shape."""
        ...


@settings(kw_only=False)
class Dense:
    """Measurement matrices, all in memory.

    Attributes:
        matrices: A, [m, d1, d2].

    Raises:
        InputError: if they are not of three dimensions.
    """

    matrices: Tensor

    def __post_init__(self) -> None:
        if self.matrices.ndim != 3:
            raise InputError(f"Dense.matrices must be [m, d1, d2]; got {[*self.matrices.shape]}.")

    @property
    def shape(self) -> tuple[int, int]:
        """Of X."""
        return self.matrices.shape[1], self.matrices.shape[2]

    def of(self, x: Tensor) -> Tensor:
        """All measurements of X."""
        return self.matrices.flatten(1) @ x.flatten()

    def back(self, weights: Tensor) -> Tensor:
        """Their weighted sum."""
        return (weights @ self.matrices.flatten(1)).view(self.shape)


@settings(kw_only=False)
class Entries:
    """Some entries of the matrix seen directly; the theory does not cover them.

    Attributes:
        rows: of the entries, [m].
        columns: of the entries, [m].
        shape: of X.

    Raises:
        InputError: if rows and columns are not [m] both.
    """

    rows: Tensor
    columns: Tensor
    shape: tuple[Count, Count]

    def __post_init__(self) -> None:
        if self.rows.ndim != 1 or self.rows.shape != self.columns.shape:
            raise InputError(
                f"Entries.rows and columns must be [m] both; got {[*self.rows.shape]} and {[*self.columns.shape]}."
            )

    def of(self, x: Tensor) -> Tensor:
        """The entries of X."""
        return x[self.rows, self.columns]

    def back(self, weights: Tensor) -> Tensor:
        """A matrix of these entries; those seen more than once add up."""
        return weights.new_zeros(self.shape).index_put_((self.rows, self.columns), weights, accumulate=True)


@dataclass(frozen=True, kw_only=True)
class Recovered:
    """What was found.

    Attributes:
        x: the matrix, [d1, d2].
        factor: U with X = U V^T, [d1, r'].
        right: V, [d2, r']; U itself if X is symmetric.
        rank: singular values of X above the largest gap.
        residual: mean |measured - predicted|, in the measurements' unit.
        steps: taken.
    """

    x: Tensor
    factor: Tensor
    right: Tensor
    rank: int
    residual: float
    steps: int


@settings
class SubGM:
    """Minimise mean |<A_i, U U^T> - y_i| by sub-gradients, from alpha times the spectral start.

    Measurements are divided by their median size, so that `eta` need not be tuned to X's scale. From a small start it
    takes about log(1/alpha) / eta steps to leave zero: a step that falls much faster than by a hundredth never does;
    one that is held too long lets superfluous directions grow.

    The paper is about positive semidefinite matrices. `symmetric=False`, an extension without its theorems, recovers
    any matrix as U V^T, from alpha times the singular vectors; each factor moves by twice its sub-gradient, so that
    U = V takes the symmetric steps and `eta` means the same.

    Attributes:
        rank: r', an upper bound of the rank; None is the smaller side.
        alpha: scale of the start; the smaller the better the recovery, at log(1/alpha) more steps.
        step: "geometric" (with outliers), "polyak" (in proportion to the loss; without noise) or "constant".
        eta: first step, at unit scale.
        decay: factor a step of the geometric rule.
        plateau: share of the steps before the geometric rule begins.
        steps: at most.
        tolerance: the geometric rule stops below eta times this.
        symmetric: X is positive semidefinite; False allows any shape and sign.

    Raises:
        InputError: if a setting is out of its range, or belongs to the geometric rule and another is set.
    """

    rank: Annotated[int, Range(at_least=1, why="None allows any rank.")] | None = None
    alpha: Positive = 1e-6
    step: Literal["geometric", "polyak", "constant"] = "geometric"
    eta: Positive = 0.3
    decay: Inner = 0.99
    plateau: Part = 0.0
    steps: Count = 2000
    tolerance: NonNegative = 1e-8
    symmetric: bool = True

    paper: ClassVar[Paper] = Paper(
        "Global Convergence of Sub-gradient Method for Robust Matrix Recovery: Small Initialization, Noisy "
        "Measurements, and Over-parameterization", "Ma, Fattahi", "JMLR", 2023, "2202.08788",
    )  # fmt: skip

    def __post_init__(self) -> None:
        rule = ("decay", "plateau", "tolerance")
        idle = [name for name in rule if getattr(self, name) != getattr(type(self), name)]
        if self.step != "geometric" and idle:
            raise InputError(
                f"SubGM.{idle[0]} is of the geometric rule and does nothing with step={self.step!r}. Leave it out."
            )

    @torch.no_grad()
    def recover(self, measurements: Measurements, y: Tensor) -> Recovered:
        """The low-rank matrix that most of the measurements agree on.

        Args:
            measurements: `Dense`, `Entries` or an operator of your own.
            y: measured values, [m], in the dtype to compute in; float64 recovers to about 1e-8, float32 to 1e-6.

        Raises:
            InputError: if y holds NaN or only zeros, or is of another length than the measurements; or if the matrix is
                not square and `symmetric` is set.
        """
        if not bool(y.isfinite().all()) or not bool((y != 0).any()):
            raise InputError("SubGM.recover got measurements that are not finite, or all zero.")
        rows, columns = measurements.shape
        if self.symmetric and rows != columns:
            raise InputError(
                f"SubGM.recover was asked for a symmetric matrix of {rows} x {columns}. Set symmetric=False."
            )
        predicted = measurements.of(y.new_zeros(rows, columns))
        if predicted.shape != y.shape:
            raise InputError(f"SubGM.recover got {len(y)} values for {len(predicted)} measurements.")
        scale = float(y.abs().median()) or float(y.abs().mean())
        target, m = y / scale, len(y)
        u, v = self._start(measurements.back(target.sign()) / m)
        eta, done = self.eta, 0
        for t in range(self.steps):
            residual = measurements.of(u @ v.T) - target
            if self.step == "polyak":
                eta = self.eta * float(residual.abs().mean())
            slope = (2 / m) * measurements.back(residual.sign())
            if self.symmetric:
                u = v = u - eta * _symmetric(slope) @ u
            else:
                u, v = u - eta * slope @ v, v - eta * slope.T @ u
            done = t + 1
            if self.step == "geometric" and t >= self.plateau * self.steps:
                eta *= self.decay
                if eta < self.eta * self.tolerance:
                    break
        u, v = u * scale**0.5, v * scale**0.5
        x = u @ v.T
        return Recovered(
            x=x,
            factor=u,
            right=v,
            rank=spectral_rank(x),
            residual=float((measurements.of(x) - y).abs().mean()),
            steps=done,
        )

    def _start(self, c: Tensor) -> tuple[Tensor, Tensor]:
        """U and V from the largest eigenvalues, or singular values, of the signs' mean."""
        kept = min(self.rank or min(c.shape), *c.shape)
        if self.symmetric:
            values, vectors = torch.linalg.eigh(_symmetric(c))
            u = self.alpha * vectors[:, -kept:] * values[-kept:].clamp(min=0).sqrt()
            return u, u
        left, values, right = torch.linalg.svd(c, full_matrices=False)
        root = self.alpha * values[:kept].sqrt()
        return left[:, :kept] * root, right[:kept].T * root


def _symmetric(x: Tensor) -> Tensor:
    return (x + x.T) / 2


def spectral_rank(x: Tensor) -> int:
    """Singular values above the largest ratio of neighbours; those below 1e-12 of the first count as equal."""
    values = torch.linalg.svdvals(x.double())
    if float(values[0]) == 0:
        return 0
    floored = values.clamp(min=float(values[0]) * 1e-12)
    return int((floored[:-1] / floored[1:]).argmax()) + 1 if len(values) > 1 else 1
