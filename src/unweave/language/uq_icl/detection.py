"""How well an uncertainty tells errors: AUROC, AUPR, and the error that is left when the unsure are passed over."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor

from ...errors import InputError
from ...random import child
from ...statistics import Floats, bootstrap


@dataclass(frozen=True)
class Detection:
    """Errors told by a score.

    Attributes:
        auroc: chance that a wrong answer scores higher than a right one; 0.5 tells nothing.
        auroc_interval: its 95 % bootstrap interval, wrong and right answers redrawn by themselves.
        aupr: average precision of wrong answers; the share of wrong answers tells nothing.
        aupr_interval: likewise.
        wrong: wrong answers.
        n: answers.
    """

    auroc: float
    auroc_interval: tuple[float, float]
    aupr: float
    aupr_interval: tuple[float, float]
    wrong: int
    n: int


@dataclass(frozen=True)
class Selective:
    """Errors among the answers that are kept when those of highest score are passed over.

    Attributes:
        coverage: share kept, rising to 1, [n].
        risk: share of errors among them, [n]; equal scores share theirs.
        area: mean of `risk`, smaller is better.
    """

    coverage: Tensor
    risk: Tensor
    area: float


def detection(score: Tensor, wrong: Tensor, *, rng: Generator, repeats: int = 200) -> Detection | None:
    """How well a score tells wrong answers from right ones; None where all are right, or all wrong.

    Args:
        score: higher where the model is less sure, [n].
        wrong: bool, [n].
        rng: of the bootstrap.
        repeats: redraws.

    Raises:
        InputError: if the two are not of one length.
    """
    _require_pair(score, wrong)
    values, errs = score.double().cpu().numpy(), wrong.cpu().numpy().astype(bool)
    if errs.all() or not errs.any():
        return None

    def figure(measure: str) -> tuple[float, tuple[float, float]]:
        statistic = auroc_of if measure == "auroc" else precision_of
        parts = values[errs], values[~errs]
        return statistic(*parts), bootstrap(statistic, *parts, rng=child(rng), repeats=repeats)

    (auroc, a), (aupr, b) = figure("auroc"), figure("aupr")
    return Detection(auroc, a, aupr, b, int(errs.sum()), len(errs))


def auroc_of(wrong: Floats, right: Floats) -> float:
    """Chance that a score of `wrong` is above one of `right`; a tie counts half."""
    order = np.sort(right)
    below = np.searchsorted(order, wrong, "left") + np.searchsorted(order, wrong, "right")
    return float(below.mean() / (2 * len(right)))


def precision_of(wrong: Floats, right: Floats) -> float:
    """Average precision of `wrong` among both, from the highest score down; equal scores come in together."""
    levels = np.unique(wrong)
    found = len(wrong) - np.searchsorted(np.sort(wrong), levels, "left")  # at least as high
    among = found + len(right) - np.searchsorted(np.sort(right), levels, "left")
    gained = found - np.append(found[1:], 0)
    return float((found / among * gained).sum() / len(wrong))


def selective(score: Tensor, wrong: Tensor) -> Selective:
    """Error against coverage when answers are kept from the surest on.

    Args:
        score: higher where the model is less sure, [n].
        wrong: bool, [n].

    Raises:
        InputError: if the two are not of one length.
    """
    _require_pair(score, wrong)
    _, group, count = torch.unique(score.double(), return_inverse=True, return_counts=True)
    errors = torch.zeros(len(count), dtype=torch.float64).index_add(0, group, wrong.double())
    expected = (errors / count)[group.sort().values]  # equal scores: any of them might be kept
    n = torch.arange(1, len(score) + 1, dtype=torch.float64)
    risk = expected.cumsum(0) / n
    return Selective(n / len(score), risk, float(risk.mean()))


def _require_pair(score: Tensor, wrong: Tensor) -> None:
    if score.ndim != 1 or score.shape != wrong.shape or not len(score):
        raise InputError(
            f"scores and errors must be one a text, [n]; got {list(score.shape)} and {list(wrong.shape)}."
        )
