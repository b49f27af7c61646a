from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.prune.world import assert_untouched, network, points, state
from unweave.embedded.digits import of_tensors
from unweave.errors import EmptyDataError, InputError
from unweave.prune import SNIP


def test_by_hand() -> None:
    # logits (w1 x, w2 x) with w = (1, 0), x = 2, label 0: p = sigmoid(2) = .8808; g = (p - 1, 1 - p) * 2;
    # g w = (-.2384, 0): all the sensitivity is the first weight's
    model = nn.Linear(1, 2, bias=False)
    nn.init.constant_(model.weight, 0.0)
    model.weight.data[0] = 1.0
    data = of_tensors(torch.tensor([[2.0]]), torch.tensor([0]), classes=2)
    assert SNIP().score(model, data)["weight"].flatten().tolist() == [1.0, 0.0]


@pytest.mark.parametrize("batch_norm", [False, True])
def test_equals_the_equation_with_the_batchs_own_statistics(batch_norm: bool) -> None:
    torch.manual_seed(0)
    model, data = network(batch_norm=batch_norm), points(batch_size=48)
    before = state(model)
    scores = SNIP().score(model, data)
    assert_untouched(model, before)
    assert sum(float(s.sum()) for s in scores.values()) == pytest.approx(1)
    inputs, labels = next(data.batches())
    model = model.double().train()
    weights = [p for p in model.parameters() if p.ndim > 1]
    products = [
        (g * w).abs()
        for g, w in zip(
            torch.autograd.grad(F.cross_entropy(model(inputs.double()), labels), weights),
            weights,
            strict=True,
        )
    ]
    total = sum(p.sum() for p in products)
    for score, product in zip(scores.values(), products, strict=True):
        torch.testing.assert_close(score.double(), (product / total).detach(), rtol=1e-3, atol=1e-8)


def test_dropout_makes_no_noise() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 3))
    first, second = SNIP().score(model, points()), SNIP().score(model, points())
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_refuses_no_data_and_no_gradient() -> None:
    with pytest.raises(EmptyDataError, match="SNIP needs"):
        SNIP().score(network(), points().subset([]))
    model = network()
    nn.init.zeros_(model[1].weight)
    nn.init.zeros_(model[3].weight)
    with pytest.raises(InputError, match="every product"):
        SNIP().score(model, points())
