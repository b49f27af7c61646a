"""Partial optimal transport between two small sets of points: the cheapest way to carry a given share of the mass.

min <G, C> with G >= 0, G 1 <= a, G^T 1 <= b, sum G = mass. Exact for points of equal mass by assignment: a share that
is a whole number of points is an assignment with dummy points (Chapel et al. 2020, arXiv 2002.08276); between two such
shares the best plan is their mixture, for the cost is convex and piecewise linear in the mass with corners only there.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy import sparse
from scipy.optimize import linear_sum_assignment, linprog
from torch import Tensor

from ..errors import InputError


def exact_plan(cost: Tensor, mass: float = 1.0) -> Tensor:
    """The cheapest plan, float64 [n, m], on the CPU; points of either side have equal masses that sum to 1.

    Args:
        cost: [n, m], finite.
        mass: carried in all, above 0 and at most 1.

    Raises:
        InputError: if the mass is not, or a cost is not finite.
    """
    c = _checked(cost, mass).numpy()
    n, m = c.shape
    if n != m:
        return torch.from_numpy(_by_linear_programme(c, mass))
    share = min(mass * n, n)
    low = math.floor(share + 1e-9)
    part = max(share - low, 0.0)
    if part < 1e-9:
        return torch.from_numpy(_assigned(c, low))
    return torch.from_numpy((1 - part) * _assigned(c, low) + part * _assigned(c, low + 1))


def _assigned(c: np.ndarray, k: int) -> np.ndarray:
    """The cheapest way to carry k of n points, each 1 / n, [n, n]."""
    n = len(c)
    plan = np.zeros_like(c)
    if k == 0:
        return plan
    grown = np.zeros((2 * n - k, 2 * n - k))
    grown[:n, :n] = (
        c - c.min()
    )  # shifts every plan of k points alike, and makes dummies no dearer than points
    grown[n:, n:] = 4 * (grown[:n, :n].max() + 1) * n  # two dummies never meet
    rows, columns = linear_sum_assignment(grown)
    real = (rows < n) & (columns < n)
    plan[rows[real], columns[real]] = 1 / n
    return plan


def _by_linear_programme(c: np.ndarray, mass: float) -> np.ndarray:
    n, m = c.shape
    rows, columns = np.divmod(np.arange(n * m), m)
    at = np.arange(n * m)
    sums = sparse.csr_matrix(
        (np.ones(2 * n * m), (np.concatenate([rows, n + columns]), np.concatenate([at, at])))
    )
    limits = np.concatenate([np.full(n, 1 / n), np.full(m, 1 / m)])
    found = linprog(c.ravel(), A_ub=sums, b_ub=limits, A_eq=np.ones((1, n * m)), b_eq=[mass])
    if found.x is None:
        raise InputError(f"no plan carries a mass of {mass} ({found.message}).")
    plan: np.ndarray = found.x.reshape(n, m)
    return plan


def entropic_plan(cost: Tensor, mass: float = 1.0, *, blur: float = 0.05, rounds: int = 200) -> Tensor:
    """An entropic plan by Sinkhorn's iteration in the log domain, with a dummy point on each side, [..., n, m].

    It ends on a step of the rows, whose sums are exact; columns are met as far as `rounds` go.

    Args:
        cost: [..., n, m], any batch of problems at once; worked on in float32 or wider.
        mass: carried in all, above 0 and at most 1.
        blur: of the entropy, as a share of each problem's mean cost.
        rounds: of both steps.

    Raises:
        InputError: if the mass is not, or a cost is not finite.
    """
    _checked(cost, mass)
    c = cost.float() if cost.dtype not in (torch.float32, torch.float64) else cost
    n, m = c.shape[-2:]
    eps = blur * c.mean((-2, -1), keepdim=True).clamp(min=1e-12)
    logits = -c / eps
    if mass < 1:
        far = -2 * c.amax((-2, -1), keepdim=True).clamp(min=1e-12) / eps - 50
        right, below = c.new_zeros((*c.shape[:-1], 1)), c.new_zeros((*c.shape[:-2], 1, m))
        logits = torch.cat([torch.cat([logits, right], -1), torch.cat([below, far], -1)], -2)
    rest = [math.log(1 - mass)] if mass < 1 else []
    a = c.new_tensor([math.log(1 / n)] * n + rest)
    b = c.new_tensor([math.log(1 / m)] * m + rest)
    f, g = torch.zeros_like(logits[..., 0]), torch.zeros_like(logits[..., 0, :])
    for _ in range(rounds):
        g = b - (logits + f[..., None]).logsumexp(-2)
        f = a - (logits + g[..., None, :]).logsumexp(-1)
    return (logits + f[..., None] + g[..., None, :]).exp()[..., :n, :m]


def _checked(cost: Tensor, mass: float) -> Tensor:
    if not 0 < mass <= 1:
        raise InputError(f"mass must be above 0 and at most 1, the mass of each side; got {mass}.")
    c = cost.detach().double().cpu()
    if c.ndim < 2 or 0 in c.shape or not bool(c.isfinite().all()):
        raise InputError(
            f"costs are finite, [..., n, m] with a point on each side; got shape {tuple(c.shape)}."
        )
    return c
