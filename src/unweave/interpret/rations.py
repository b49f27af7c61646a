"""Who may speak: which entries of a matrix of scores, vectors x latents, are kept under a ration.

Ayonrinde, "Adaptive Sparse Allocation with Mutual Choice and Feature Choice Sparse Autoencoders", arXiv 2411.02124: a
ration a token (TopK), a batch (Mutual Choice, which is BatchTopK), or a feature (Feature Choice), the last uniform or
after a Zipf law. Equal scores are decided by position.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import least_squares
from torch import Tensor

from ..errors import InputError


def per_row(scores: Tensor, k: int) -> Tensor:
    """The k largest of each row of [..., n], as bool of that shape."""
    kept = torch.zeros_like(scores, dtype=torch.bool)
    return kept.scatter_(-1, scores.topk(k, dim=-1, sorted=False).indices, True)


def per_batch(scores: Tensor, budget: int) -> Tensor:
    """The `budget` largest of all entries of [b, n], as bool [b, n]; all of them where there are no more."""
    kept = torch.zeros(scores.numel(), dtype=torch.bool, device=scores.device)
    kept[scores.flatten().topk(min(budget, scores.numel()), sorted=False).indices] = True
    return kept.view_as(scores)


def per_column(scores: Tensor, ration: Tensor) -> Tensor:
    """The ration[j] largest of column j of [b, n], as bool [b, n].

    Args:
        scores: of b vectors.
        ration: whole numbers, at least 0, [n]; one above b takes the whole column.
    """
    most = int(ration.max().clamp(max=len(scores)))
    kept = torch.zeros_like(scores, dtype=torch.bool)
    if most == 0:
        return kept
    order = scores.topk(most, dim=0).indices
    within = torch.arange(most, device=scores.device)[:, None] < ration.to(scores.device)[None]
    return kept.scatter_(0, order, within)


def rationed(shares: Tensor, budget: int, least: int = 1) -> Tensor:
    """A budget divided in proportion to shares, by largest remainders, with at least `least` each.

    Args:
        shares: at least 0, not all of them 0, [n].
        budget: what the parts add up to.
        least: of each part.

    Returns:
        int64 [n]; sums to `budget`.

    Raises:
        InputError: if the budget cannot give each its least.
    """
    n = len(shares)
    if budget < least * n:
        raise InputError(
            f"{budget} active codes a batch cannot give each of {n} latents {least}: the batch must hold at least "
            f"latents / k vectors. Raise batch_size or k, or lower latents."
        )
    wanted = shares.double() / shares.double().sum() * (budget - least * n)
    parts = wanted.floor().long()
    rest = budget - least * n - int(parts.sum())
    order = (parts - wanted).argsort(stable=True)
    parts[order[:rest]] += 1
    return parts + least


@dataclass(frozen=True)
class Zipf:
    """The Zipf-Mandelbrot law of densities by rank, rho_r = a / (r + b)^s.

    Attributes:
        a: height.
        b: shift of ranks.
        s: exponent.
    """

    a: float
    b: float
    s: float

    def at(self, ranks: Tensor) -> Tensor:
        """Density at ranks from 1 on, float64."""
        return self.a / (ranks.double() + self.b) ** self.s


def fit_zipf(densities: Tensor) -> Zipf:
    """Least squares on log density against rank, over the first 90 % of ranks that have one.

    The low end is left out, for there densities fall off the law (Ayonrinde 2024).

    Raises:
        InputError: if fewer than three latents are ever active.
    """
    living = densities[densities > 0].double().sort(descending=True).values
    head = living[: max(3, int(0.9 * len(densities)))].cpu().numpy()
    if len(head) < 3:
        raise InputError(
            f"a Zipf law needs three latents that are ever active; there are {len(head)}. Train longer, or raise k."
        )
    ranks, heights = np.arange(1, len(head) + 1), np.log(head)

    def off(p: np.ndarray) -> np.ndarray:
        found: np.ndarray = p[0] - p[2] * np.log(ranks + p[1]) - heights
        return found

    fitted = least_squares(off, (heights[0], 1.0, 1.0), bounds=((-60, 0, 0), (60, 10 * len(head), 10))).x
    return Zipf(float(np.exp(fitted[0])), float(fitted[1]), float(fitted[2]))


def ranks_of(densities: Tensor) -> Tensor:
    """Rank of each by density, from 1 for the densest; equal ones by position; int64 [n]."""
    order = densities.argsort(descending=True, stable=True)
    ranks = torch.empty_like(order)
    ranks[order] = torch.arange(1, len(order) + 1, device=order.device)
    return ranks
