from __future__ import annotations

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from tests.contract import world
from unweave import Request, seeded
from unweave.errors import InputError
from unweave.tasks import predict, read_labels
from unweave.unlearn import LogitMask


def one_class() -> Request:
    train, heldout = world.points()
    return Request.of(train, heldout, (read_labels(train) == 1).nonzero().flatten())


def test_never_answers_with_the_class_and_forgets_nothing() -> None:
    model, request = world.model(), one_class()
    edited = LogitMask().apply(model, request, rng=seeded(0))
    for data in (request.forget, request.retain, request.heldout):
        before, after = predict(model, data), predict(edited, data)
        assert not (after.argmax(1) == 1).any()
        assert torch.equal(before[:, [0, 2]], after[:, [0, 2]])
    assert (predict(model, request.forget).argmax(1) == 1).double().mean() > 0.9
    # a linear probe of the features, fitted on half of the held-out set, still tells the class apart
    features = predict(edited, request.heldout, request.heldout.task.features).numpy()
    is_class = (read_labels(request.heldout) == 1).numpy()
    probe = LogisticRegression().fit(features[::2], is_class[::2])
    assert probe.score(features[1::2], is_class[1::2]) > 0.9


def test_exact_only_that_row_changes() -> None:
    model = world.model()
    edited = LogitMask(classes=(0, 2)).apply(model, world.request(), rng=seeded(0))
    assert not edited[-1].weight[[0, 2]].any()
    assert edited[-1].bias[[0, 2]].tolist() == [-1e4, -1e4]
    assert torch.equal(edited[-1].weight[1], model[-1].weight[1])
    assert torch.equal(edited[1].weight, model[1].weight)


def test_refuses() -> None:
    model, request = world.model(), one_class()
    with pytest.raises(InputError, match="every class of the forget set is still in the retain set"):
        LogitMask().apply(model, world.request(), rng=seeded(0))
    with pytest.raises(InputError, match="names 3; the task has classes 0 to 2"):
        LogitMask(classes=(3,)).apply(model, request, rng=seeded(0))
    with pytest.raises(InputError, match="3 outputs and a bias"):
        LogitMask().apply(nn.Linear(8, 3, bias=False), request, rng=seeded(0))
    with pytest.raises(InputError, match="frozen"):
        LogitMask().apply(world.model().requires_grad_(False), request, rng=seeded(0))
    with pytest.raises(InputError, match="at least one class"):
        LogitMask(classes=())
    with pytest.raises(InputError, match="classes must be a tuple, each a whole number at least 0"):
        LogitMask(classes=(-1,))
