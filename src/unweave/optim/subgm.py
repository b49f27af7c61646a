"""SubGM: recover a low-rank matrix from measurements of which many are wrong, without knowing its rank.

Ma, Fattahi, "Global Convergence of Sub-gradient Method for Robust Matrix Recovery: Small Initialization, Noisy
Measurements, and Over-parameterization", JMLR 2023, arXiv 2202.08788: descend the l1 loss of U U^T along
sub-gradients from a small spectral start.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor

from ..errors import InputError
from ..paper import Paper


class Measurements(Protocol):
    """m linear measurements <A_i, X> of a d x d matrix."""

    size: int

    def of(self, x: Tensor) -> Tensor:
        """All measurements of X [d, d], [m]."""
        ...

    def back(self, weights: Tensor) -> Tensor:
        """sum_i weights_i (A_i + A_i^T) / 2, [d, d]."""
        ...


@dataclass(frozen=True)
class Dense:
    """Measurement matrices, all in memory.

    Attributes:
        matrices: A, [m, d, d].
    """

    matrices: Tensor

    @property
    def size(self) -> int:
        """D."""
        return self.matrices.shape[-1]

    def of(self, x: Tensor) -> Tensor:
        """All measurements of X."""
        return self.matrices.flatten(1) @ x.flatten()

    def back(self, weights: Tensor) -> Tensor:
        """Their weighted sum, made symmetric."""
        total = (weights @ self.matrices.flatten(1)).view(self.size, self.size)
        return (total + total.T) / 2


@dataclass(frozen=True)
class Entries:
    """Some entries of the matrix seen directly; the theory does not cover them.

    Attributes:
        rows: of the entries, [m].
        columns: of the entries, [m].
        size: d.
    """

    rows: Tensor
    columns: Tensor
    size: int

    def of(self, x: Tensor) -> Tensor:
        """The entries of X."""
        return x[self.rows, self.columns]

    def back(self, weights: Tensor) -> Tensor:
        """A matrix of these entries, made symmetric."""
        total = weights.new_zeros(self.size, self.size)
        total.index_put_((self.rows, self.columns), weights, accumulate=True)
        return (total + total.T) / 2


@dataclass(frozen=True, kw_only=True)
class Recovered:
    """What was found.

    Attributes:
        x: the matrix, [d, d].
        factor: U with X = U U^T, [d, r'].
        rank: singular values of X above the largest gap.
        residual: mean |measured - predicted|, in the measurements' unit.
        steps: taken.
    """

    x: Tensor
    factor: Tensor
    rank: int
    residual: float
    steps: int


@dataclass(frozen=True, kw_only=True)
class SubGM:
    """Minimise mean |<A_i, U U^T> - y_i| by sub-gradients, from alpha times the spectral start.

    Measurements are divided by their median size, so that `eta` need not be tuned to X's scale. From a small start it
    takes about log(1/alpha) / eta steps to leave zero: a step that falls much faster than by a hundredth never does;
    one that is held too long lets superfluous directions grow.

    Attributes:
        rank: r', an upper bound of the rank; None is d.
        alpha: scale of the start; the smaller the better the recovery, at log(1/alpha) more steps.
        step: "geometric" (with outliers), "polyak" (in proportion to the loss; without noise) or "constant".
        eta: first step, at unit scale.
        decay: factor a step of the geometric rule, in (0, 1).
        hold: share of the steps before the geometric rule begins, in [0, 1).
        steps: at most.
        tolerance: the geometric rule stops below eta times this.
    """

    rank: int | None = None
    alpha: float = 1e-6
    step: Literal["geometric", "polyak", "constant"] = "geometric"
    eta: float = 0.3
    decay: float = 0.99
    hold: float = 0.0
    steps: int = 2000
    tolerance: float = 1e-8

    paper: ClassVar[Paper] = Paper(
        "Global Convergence of Sub-gradient Method for Robust Matrix Recovery: Small Initialization, Noisy "
        "Measurements, and Over-parameterization", "Ma, Fattahi", "JMLR", 2023, "2202.08788",
    )  # fmt: skip
    needs: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if not self.alpha > 0 or not self.eta > 0 or not 0 < self.decay < 1 or self.steps < 1:
            raise InputError(
                "SubGM needs alpha > 0, eta > 0, decay in (0, 1) and steps >= 1; got "
                f"{self.alpha}, {self.eta}, {self.decay} and {self.steps}."
            )
        if self.rank is not None and self.rank < 1:
            raise InputError(f"SubGM.rank must be at least 1; got {self.rank}. None allows any rank.")

    @torch.no_grad()
    def recover(self, measurements: Measurements, y: Tensor) -> Recovered:
        """The positive semidefinite matrix that most of the measurements agree on.

        Args:
            measurements: `Dense`, `Entries` or an operator of your own.
            y: measured values, [m], in the dtype to compute in; float64 recovers to about 1e-8, float32 to 1e-6.

        Raises:
            InputError: if y holds NaN or only zeros, or is of another length than the measurements.
        """
        if not bool(y.isfinite().all()) or not bool((y != 0).any()):
            raise InputError("SubGM.recover got measurements that are not finite, or all zero.")
        predicted = measurements.of(y.new_zeros(measurements.size, measurements.size))
        if predicted.shape != y.shape:
            raise InputError(f"SubGM.recover got {len(y)} values for {len(predicted)} measurements.")
        scale = float(y.abs().median()) or float(y.abs().mean())
        target, m = y / scale, len(y)
        values, vectors = torch.linalg.eigh(measurements.back(target.sign()) / m)
        kept = min(self.rank or measurements.size, measurements.size)
        u = self.alpha * vectors[:, -kept:] * values[-kept:].clamp(min=0).sqrt()
        eta, done = self.eta, 0
        for t in range(self.steps):
            residual = measurements.of(u @ u.T) - target
            if self.step == "polyak":
                eta = self.eta * float(residual.abs().mean())
            u = u - eta * (2 / m) * measurements.back(residual.sign()) @ u
            done = t + 1
            if self.step == "geometric" and t >= self.hold * self.steps:
                eta *= self.decay
                if eta < self.eta * self.tolerance:
                    break
        u = u * scale**0.5
        x = u @ u.T
        return Recovered(
            x=x,
            factor=u,
            rank=spectral_rank(x),
            residual=float((measurements.of(x) - y).abs().mean()),
            steps=done,
        )


def spectral_rank(x: Tensor) -> int:
    """Singular values above the largest ratio of neighbours; those below 1e-12 of the first count as equal."""
    values = torch.linalg.svdvals(x.double())
    if float(values[0]) == 0:
        return 0
    floored = values.clamp(min=float(values[0]) * 1e-12)
    return int((floored[:-1] / floored[1:]).argmax()) + 1 if len(values) > 1 else 1
