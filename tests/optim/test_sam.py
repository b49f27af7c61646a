from __future__ import annotations

import pytest
import torch
from torch.nn import BatchNorm1d, Dropout, Linear, Sequential

from tests.optim.problem import assert_near, closure_of, gradient_at, parameters, size
from unweave import fit_, seeded
from unweave.datasets import of_tensors
from unweave.optim import SAM
from unweave.recipe import mean_loss


def test_a_step_by_hand() -> None:
    # L = w^2 / 2 at w = 2: g = 2, eps = rho = 0.5, g' = 2.5, w - lr g' = 2 - 0.1 * 2.5
    w = torch.tensor([2.0], requires_grad=True)

    def closure() -> torch.Tensor:
        w.grad = None
        loss = (w**2).sum() / 2
        loss.backward()
        return loss

    assert SAM([w], lr=0.1, rho=0.5).step(closure).item() == 2.0
    assert w.item() == pytest.approx(1.75, abs=1e-6)


@pytest.mark.parametrize("foreach", [True, False])
def test_is_the_equation(foreach: bool) -> None:
    weights = parameters()
    g = gradient_at(weights)
    moved = [w + 0.3 * d / size(g) for w, d in zip(weights, g, strict=True)]
    expected = [w - 0.1 * d for w, d in zip(weights, gradient_at(moved), strict=True)]
    SAM(weights, lr=0.1, rho=0.3, foreach=foreach).step(closure_of(weights))
    assert_near(weights, expected)


def test_rho_by_group_and_a_norm_over_all_groups() -> None:
    weights = parameters()
    g = gradient_at(weights)
    rhos = (0.2, 0.5, 0.5)
    moved = [w + r * d / size(g) for w, d, r in zip(weights, g, rhos, strict=True)]
    expected = [w - 0.1 * d for w, d in zip(weights, gradient_at(moved), strict=True)]
    SAM([{"params": weights[:1], "rho": 0.2}, {"params": weights[1:]}], lr=0.1, rho=0.5).step(
        closure_of(weights)
    )
    assert_near(weights, expected)


def test_first_and_second_step_are_the_step() -> None:
    one, two = parameters(), parameters()
    SAM(one, lr=0.1, rho=0.3).step(closure_of(one))
    optimizer = SAM(two, lr=0.1, rho=0.3)
    closure_of(two)()
    optimizer.first_step()
    closure_of(two)()
    optimizer.second_step()
    assert_near(one, two)


def test_agrees_with_pytorch_optimizer_under_its_own_contract() -> None:
    theirs = pytest.importorskip("pytorch_optimizer").SAM
    one, two = parameters(), parameters()
    ours = SAM(one, lr=0.1, momentum=0.9, rho=0.2)
    other = theirs(two, torch.optim.SGD, rho=0.2, lr=0.1, momentum=0.9)
    for _ in range(5):
        ours.step(closure_of(one))
        closure_of(two)()  # it wants gradients before its step
        other.step(closure_of(two))
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)  # it takes norms in float32


def test_a_gradient_of_zero_moves_nothing() -> None:
    w = torch.zeros(3, requires_grad=True)

    def closure() -> torch.Tensor:
        w.grad = None
        loss = (w**2).sum()
        loss.backward()
        return loss

    SAM([w], lr=0.1, rho=0.5).step(closure)
    assert torch.equal(w, torch.zeros(3))


def test_a_failing_second_pass_leaves_the_weights_as_they_were() -> None:
    weights = parameters()
    before = [w.detach().clone() for w in weights]
    good, calls = closure_of(weights), []

    def closure() -> torch.Tensor:
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("no luck")
        return good()

    with pytest.raises(RuntimeError, match="no luck"):
        SAM(weights, lr=0.1).step(closure)
    assert all(torch.equal(a, b) for a, b in zip(weights, before, strict=True))


def test_dropout_is_drawn_once_a_step_and_statistics_move_once() -> None:
    rng = seeded(0)
    data = of_tensors(torch.randn(8, 4, generator=rng), torch.arange(8) % 2, batch_size=8)
    seen: list[torch.Tensor] = []

    def network() -> Sequential:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return Sequential(Linear(4, 6), BatchNorm1d(6), Dropout(0.5), Linear(6, 2))

    model = network()
    model[2].register_forward_hook(lambda m, i, out: seen.append(out.detach() != 0))
    fit_(model, data, mean_loss(data), SAM(model.parameters(), lr=0.1, rho=0.05), epochs=1, rng=seeded(1))
    assert len(seen) == 2
    assert torch.equal(seen[0], seen[1])
    once = network()
    fit_(once, data, mean_loss(data), torch.optim.SGD(once.parameters(), lr=0.1), epochs=1, rng=seeded(1))
    assert torch.equal(model[1].running_mean, once[1].running_mean)
    assert torch.equal(model[1].running_var, once[1].running_var)
    assert int(model[1].num_batches_tracked) == 1
