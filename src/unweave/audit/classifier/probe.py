"""Representation probes: what the layers below the last one still know, whatever the outputs say.

Editing the last layer alone satisfies every figure that reads outputs (Jeon et al., 2024, arXiv 2405.17878,
show it with their information difference index). These two are cheap stand-ins for such an index.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Generator
from torch.nn import Module

from ...errors import InputError
from ...random import draw_seed
from ...statistics import Floats
from ...tasks import Labelled, Representing, predict, read_labels, requires
from ...types import Data, Request
from .membership import auc
from .scores import Parts


def class_mean_probe(model: Module, request: Request[Any], parts: Parts) -> tuple[float, int]:
    """Share of the deleted examples whose representation lies nearest to the mean of their own class.

    Representations are brought to unit length. Class means are taken over retained examples; that of a
    deleted class over the forget set. Where a whole class was deleted, its held-out examples are asked, if
    there are any: a model that never learned the class has not drawn them together.

    Args:
        model: left unchanged.
        request: all three parts are read.
        parts: of this request.

    Returns:
        The share, and of how many examples.

    Raises:
        InputError: if the task shows no representation or has no labels.
    """
    task = request.forget.task
    requires(task, Representing, "the class-mean probe")
    requires(task, Labelled, "the class-mean probe")
    (forget, own), (retain, others) = (_unit(model, data) for data in (request.forget, request.retain))
    asked, truth = _unit(model, parts.gone) if parts.gone is not None else (forget, own)
    kinds = np.unique(np.concatenate([own, others]))
    means = np.stack(
        [(forget[own == c] if c in parts.deleted else retain[others == c]).mean(0) for c in kinds.tolist()]
    )
    # |x - m|^2 with the x^2 left out, which is the same for all classes
    nearest = kinds[((means**2).sum(1) - 2 * asked @ means.T).argmin(1)]
    return float((nearest == truth).mean()), len(truth)


def linear_probe(model: Module, ours: Data[Any], others: Data[Any], *, rng: Generator) -> float:
    """AUC of a logistic regression on the representation, `ours` against `others`, on the half it never saw.

    Args:
        model: left unchanged.
        ours: forget examples, or held-out examples of the deleted class.
        others: held-out examples of the rest.
        rng: splits both in halves.

    Raises:
        InputError: if the task shows no representation, or either side has fewer than four examples.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    requires(ours.task, Representing, "the linear probe")
    if min(len(ours), len(others)) < 4:
        raise InputError(
            f"the linear probe needs at least 4 examples a side; got {len(ours)} and {len(others)}."
        )
    draw = np.random.default_rng(draw_seed(rng))
    a, b = (predict(model, data, data.task.features).double().numpy() for data in (ours, others))
    a, b = a[draw.permutation(len(a))], b[draw.permutation(len(b))]
    i, j = len(a) // 2, len(b) // 2
    probe = make_pipeline(
        StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000, tol=1e-3)
    )
    probe.fit(np.concatenate([a[:i], b[:j]]), np.concatenate([np.ones(i), np.zeros(j)]))
    return auc(probe.decision_function(a[i:]), probe.decision_function(b[j:]))


def _unit(model: Module, data: Data[Any]) -> tuple[Floats, npt.NDArray[np.int64]]:
    features: Floats = predict(model, data, data.task.features).double().numpy()
    length = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.maximum(length, 1e-12), read_labels(data).numpy()
