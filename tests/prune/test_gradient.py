from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.prune.world import assert_untouched, points, state, trained
from unweave.derivatives import spaced
from unweave.errors import EmptyDataError, NonFiniteError
from unweave.prune import Gradient


def naive_gradient(model: nn.Module, data) -> torch.Tensor:
    inputs, labels = data.examples.tensors
    model = model.double().eval()
    model.zero_grad()
    (
        sum(F.cross_entropy(model(x[None].double()), y[None]) for x, y in zip(inputs, labels, strict=True))
        / len(inputs)
    ).backward()
    return model[1].weight.grad


@pytest.mark.parametrize("batch_size", [16, 5])
def test_is_the_absolute_gradient_of_the_mean_loss_whatever_the_batches(batch_size: int) -> None:
    data, model = points(batch_size=batch_size), trained(batch_norm=True)
    before = state(model)
    scores = Gradient().score(model, data)
    assert_untouched(model, before)
    torch.testing.assert_close(
        scores["1.weight"].double(), naive_gradient(model, data).abs(), atol=1e-6, rtol=1e-4
    )


def test_examples_are_spaced_evenly() -> None:
    chosen = spaced(points(), 4)
    assert torch.as_tensor(chosen.examples.indices).tolist() == [0, 16, 31, 47]
    assert spaced(points(), None) is not None
    assert len(spaced(points(), 1000)) == 48


def test_refuses_no_data_and_a_broken_model() -> None:
    with pytest.raises(EmptyDataError, match="Gradient needs"):
        Gradient().score(trained(), points().subset([]))
    model = trained()
    with torch.no_grad():
        model[1].weight.fill_(float("nan"))
    with pytest.raises(NonFiniteError, match="loss of the model to be scored is nan"):
        Gradient().score(model, points())
