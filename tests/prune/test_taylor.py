from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from tests.prune.world import assert_untouched, points, state, trained
from unweave.errors import EmptyDataError
from unweave.prune import Taylor


def test_equals_the_equation_batch_by_batch() -> None:
    data, model = points(), trained()
    before = state(model)
    scores = Taylor().score(model, data)
    assert_untouched(model, before)
    naive = torch.zeros(16, 6, dtype=torch.float64)
    model = model.double()
    for inputs, labels in data.batches():
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(inputs.double()), labels), model[1].weight)
        naive += (gradient * model[1].weight.detach()).square() / 3
    torch.testing.assert_close(scores["1.weight"], naive, rtol=1e-3, atol=1e-12)


def test_predicts_the_loss_change_of_small_weights() -> None:
    data, model = points(batch_size=48), trained().double()
    scores = Taylor().score(model, data)["3.weight"].sqrt().flatten()
    (inputs, labels), weight = next(data.batches()), model[3].weight.detach()
    loss = lambda: float(F.cross_entropy(model(inputs.double()), labels).detach())  # noqa: E731
    full, changes = loss(), []
    for i in range(weight.numel()):
        kept = weight.view(-1)[i].clone()
        weight.view(-1)[i] = 0.99 * kept  # a hundredth of the way to removal, where first order holds
        changes.append(100 * abs(loss() - full))
        weight.view(-1)[i] = kept
    assert float(torch.corrcoef(torch.stack([scores, torch.tensor(changes).double()]))[0, 1]) > 0.99


def test_refuses_no_data() -> None:
    with pytest.raises(EmptyDataError, match="Taylor needs"):
        Taylor().score(trained(), points().subset([]))
