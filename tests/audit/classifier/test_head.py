"""The last layer made anew, beside scikit-learn's ridge and a dense solution."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from unweave.audit.classifier.head import PENALTY, margins, margins_of, ridge_scores
from unweave.audit.classifier.scores import Parts
from unweave.embedded.digits import digits
from unweave.embedded.nets import mlp
from unweave.tasks import predict, read_labels
from unweave.types import Request


@pytest.mark.parametrize(("n", "width"), [(60, 8), (20, 50)])
def test_scores_equal_scikit_learns_ridge_on_standardised_coordinates(n: int, width: int) -> None:
    draw = np.random.default_rng(0)
    x, asked = draw.normal(2, 3, (n, width)), draw.normal(2, 3, (7, width))
    x[:, 0] = 5.0  # a coordinate that does not move must not be blown up
    labels = draw.integers(0, 3, n) * 2
    spread = x.std(0)
    spread = np.maximum(spread, 0.05 * spread.mean())
    a, z = (x - x.mean(0)) / spread, (asked - x.mean(0)) / spread
    onehot = (labels[:, None] == np.array([0, 2, 4])) * 1.0
    expected = Ridge(alpha=PENALTY * n, fit_intercept=False).fit(a, onehot - onehot.mean(0)).predict(
        z
    ) + onehot.mean(0)
    found, kinds = ridge_scores(x, labels, asked)
    assert kinds.tolist() == [0, 2, 4]
    assert found == pytest.approx(expected, abs=1e-10)


def test_random_requests_are_read_by_a_layer_that_never_saw_them() -> None:
    draw = np.random.default_rng(1)
    forget, retain = draw.normal(0, 1, (9, 5)), draw.normal(0, 1, (40, 5))
    own, others = draw.integers(0, 3, 9), draw.integers(0, 3, 40)
    scores, _ = ridge_scores(retain, others, forget)
    expected = [s[y] - max(np.delete(s, y)) for s, y in zip(scores, own, strict=True)]
    found = margins_of(forget, own, retain, others, whole=False, seed=0)
    assert found == pytest.approx(expected)


def test_whole_classes_are_read_by_halves_that_never_saw_the_other() -> None:
    draw = np.random.default_rng(2)
    forget, retain = draw.normal(1, 1, (10, 5)), draw.normal(0, 1, (40, 5))
    own, others = np.full(10, 3), draw.integers(0, 3, 40)
    found = margins_of(forget, own, retain, others, whole=True, seed=4)
    again = margins_of(forget, own, retain, others, whole=True, seed=4)
    assert found is not None
    assert (found == again).all()
    moved = forget.copy()
    moved[0] += 100.0
    changed = margins_of(moved, own, retain, others, whole=True, seed=4)
    # its own half is read by a layer fitted without it; the other half's layer saw it
    same = np.isclose(found, changed)
    assert same.sum() == 4
    assert not same[0]


def test_a_class_that_cannot_be_halved_has_no_margins() -> None:
    draw = np.random.default_rng(3)
    retain, others = draw.normal(0, 1, (40, 5)), draw.integers(0, 3, 40)
    assert margins_of(draw.normal(0, 1, (1, 5)), np.array([3]), retain, others, whole=True, seed=0) is None


def test_margins_of_a_model_leave_it_as_it_was() -> None:
    train, heldout = digits()
    request = Request.of(train, heldout, range(50))
    model, parts = mlp(64, 16, 10), Parts.of(request)
    found = margins(model.train(), request, parts, seed=0)
    assert model.training
    model.eval()
    x, r = (predict(model, d, d.task.features).double().numpy() for d in (request.forget, request.retain))
    labels = [read_labels(d).numpy() for d in (request.forget, request.retain)]
    assert found == pytest.approx(margins_of(x, labels[0], r, labels[1], whole=False, seed=0))
    assert found is not None
    assert len(found) == 50
