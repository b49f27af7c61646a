"""What lies under the answers: the margins of a last layer made anew from one model's representation.

Editing the last layer alone satisfies every figure that reads outputs (Jeon et al., 2024, arXiv 2405.17878). So
the last layer is thrown away: a ridge regression on the representation under it takes its place, fitted without
the example that it is asked about, and the margin of the true class is read. A model that was trained on an
example has drawn its representation to its class; one that never saw it has not. These margins, example by example,
go on the ruler. One pass over the data a model, no training, no chance.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import Module

from ...errors import InputError
from ...random import seeded
from ...statistics import Floats
from ...tasks import Labelled, Representing, able, predict, read_labels
from ...types import Data, Request
from .scores import Parts

PENALTY = 0.03
"""Ridge penalty a fitted example, on standardised coordinates."""
_FLOOR = 0.05  # of the mean standard deviation: coordinates that hardly move must not be blown up

Labels = npt.NDArray[np.int64]


def margins(model: Module, request: Request[Any], parts: Parts, seed: int) -> Floats | None:
    """Margin of the true class of each forget example under a last layer made anew.

    Where examples were deleted at random, the layer is fitted on the retain set. Where a class goes whole, nothing
    retained shows it: each of two fixed halves of the forget set is read by a layer fitted on the retain set and
    the other half.

    Args:
        model: left unchanged; read in eval mode.
        request: forget set of n examples.
        parts: of it.
        seed: of the halves; the same for all models that are compared.

    Returns:
        [n]; None where the task has no labels or representation, the model no linear layer, or the forget set of a
        whole class is too small to be halved.
    """
    task = request.forget.task
    if not (able(task, Representing) and able(task, Labelled)):
        return None
    try:
        forget, retain = (features(model, data) for data in (request.forget, request.retain))
    except InputError:
        return None
    return margins_of(
        forget, read_labels(request.forget).numpy(), retain, read_labels(request.retain).numpy(),
        whole=bool(parts.deleted), seed=seed,
    )  # fmt: skip


def features(model: Module, data: Data[Any]) -> Floats:
    """Representation under the last layer, [n, width] in float64.

    Raises:
        InputError: if the model has no linear layer.
    """
    found: Floats = predict(model, data, data.task.features).double().numpy()
    return found


def margins_of(
    forget: Floats, own: Labels, retain: Floats, others: Labels, *, whole: bool, seed: int
) -> Floats | None:
    """`margins` of representations [n, width] with their classes [n]; see there."""
    if not whole:
        return _margin(retain, others, forget, own)
    order = torch.randperm(len(forget), generator=seeded(seed)).numpy()
    halves = order[: len(order) // 2], order[len(order) // 2 :]
    if any(set(own[half]) != set(own) for half in halves):
        return None
    found = np.empty(len(forget))
    for asked, shown in (halves, halves[::-1]):
        data = np.concatenate([retain, forget[shown]]), np.concatenate([others, own[shown]])
        found[asked] = _margin(*data, forget[asked], own[asked])
    return found


def ridge_scores(fitted: Floats, labels: Labels, asked: Floats) -> tuple[Floats, Labels]:
    """Scores of a ridge regression on centred one-hot labels, and the classes that its columns stand for.

    argmin ||A W - Y||^2 + penalty n ||W||^2 with A the standardised representations; in the dual form where there
    are more coordinates than examples.

    Args:
        fitted: representations, [n, width].
        labels: their classes, [n].
        asked: representations to score, [m, width].

    Returns:
        Scores [m, classes], and the classes present among `labels`, ascending.
    """
    kinds = np.unique(labels)
    middle, spread = fitted.mean(0), fitted.std(0)
    spread = np.maximum(spread, max(_FLOOR * float(spread.mean()), 1e-12))
    a, z = (fitted - middle) / spread, (asked - middle) / spread
    y = (labels[:, None] == kinds).astype(np.float64)
    base = y.mean(0)
    n, width = a.shape
    if width > n:
        weight = a.T @ np.linalg.solve(a @ a.T + PENALTY * n * np.eye(n), y - base)
    else:
        weight = np.linalg.solve(a.T @ a + PENALTY * n * np.eye(width), a.T @ (y - base))
    return z @ weight + base, kinds


def _margin(fitted: Floats, labels: Labels, asked: Floats, truth: Labels) -> Floats:
    scores, kinds = ridge_scores(fitted, labels, asked)
    own = truth[:, None] == kinds
    rest = np.where(own, -np.inf, scores).max(1)
    out: Floats = scores[own] - rest
    return out
