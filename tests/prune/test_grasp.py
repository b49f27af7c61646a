from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from tests.prune.world import assert_untouched, network, points, state
from unweave.errors import EmptyDataError, InputError
from unweave.masks import select
from unweave.prune import Global, GraSP


def flow(model: torch.nn.Module, data, temperature: float) -> float:
    """Squared norm of the gradient of the mean loss with respect to the weights in scope."""
    inputs, labels = data.examples.tensors
    weights = [p for p in model.parameters() if p.ndim > 1]
    gradients = torch.autograd.grad(F.cross_entropy(model(inputs.double()) / temperature, labels), weights)
    return sum(float(g.square().sum()) for g in gradients)


@pytest.mark.parametrize("temperature", [1.0, 200.0])
@pytest.mark.parametrize("batch_size", [48, 7])
def test_is_the_finite_difference_of_the_gradients_norm(temperature: float, batch_size: int) -> None:
    torch.manual_seed(0)
    model, data = network().double(), points(batch_size=batch_size)
    before = state(model)
    scores = GraSP(temperature=temperature).score(model, data)
    assert_untouched(model, before)
    # d |g|^2 along -w_q e_q is 2 (-w_q)(H g)_q = -2 score: removal that strengthens the gradient scores low
    step, weight = 1e-5, model[3].weight.data.view(-1)
    for q in range(0, 48, 5):
        value = weight[q].clone()
        weight[q] = value * (1 - step)
        forward = flow(model, data, temperature)
        weight[q] = value * (1 + step)
        backward = flow(model, data, temperature)
        weight[q] = value
        slope = (forward - backward) / (2 * step)
        assert -2 * float(scores["3.weight"].view(-1)[q]) == pytest.approx(slope, rel=1e-4, abs=1e-12)


def test_keeps_more_gradient_flow_than_the_opposite_sign() -> None:
    torch.manual_seed(0)
    data = points()
    kept = {}
    for sign in (1, -1):
        torch.manual_seed(0)
        model = network().double()
        scores = {name: sign * s for name, s in GraSP().score(model, data).items()}
        select(scores, budget=Global(0.3)).apply_(model)
        kept[sign] = flow(model, data, 200.0)
    assert kept[1] > 3 * kept[-1]


def test_refuses() -> None:
    with pytest.raises(InputError, match=r"temperature must be above 0; got 0\.0\. The paper uses 200"):
        GraSP(temperature=0.0)
    with pytest.raises(EmptyDataError, match="GraSP needs"):
        GraSP().score(network(), points().subset([]))
