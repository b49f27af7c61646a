from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.prune.world import points, trained
from unweave.errors import InputError
from unweave.prune import Magnitude, Scope


def test_is_the_absolute_weight() -> None:
    model = trained(batch_norm=True)
    scores = Magnitude().score(model, points())
    assert list(scores) == ["1.weight", "4.weight"]  # neither biases nor batch normalisation
    assert torch.equal(scores["1.weight"], model[1].weight.detach().abs())


def test_scope_leaves_out_what_it_is_told() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Linear(2, 2), nn.Linear(2, 2), nn.Embedding(3, 2))
    names = lambda scope: list(scope.weights(model))  # noqa: E731
    assert names(Scope()) == ["0.weight", "1.weight", "2.weight"]
    assert names(Scope(first=False, last=False)) == ["1.weight"]
    assert names(Scope(skip=("1",))) == ["0.weight", "2.weight"]
    assert names(Scope(only=("2",))) == ["2.weight"]
    model[1].weight.requires_grad_(False)
    assert names(Scope(least=0.8)) == ["0.weight", "2.weight"]
    model[2].weight = model[0].weight
    assert names(Scope(least=0.8)) == ["0.weight"]  # tied: once


def test_refuses_an_empty_scope() -> None:
    with pytest.raises(InputError, match="no weight is in scope"):
        Scope().layers(nn.BatchNorm1d(3))
    with pytest.raises(InputError, match="'missing' names no weight"):
        Scope(skip=("missing",)).layers(trained())
