from __future__ import annotations

import pytest
import torch

from tests.optim.problem import assert_near, closure_of, gradient_at, loss_at, parameters, size
from unweave.optim import S2SAM


def test_is_the_equation() -> None:
    weights = parameters()
    naive = [w.detach().clone() for w in weights]
    optimizer = S2SAM(weights, lr=0.1, rho=0.3)
    last: list[torch.Tensor] | None = None
    for _ in range(4):
        at = naive if last is None else [w + 0.3 * d / size(last) for w, d in zip(naive, last, strict=True)]
        last = gradient_at(at)
        naive = [w - 0.1 * d for w, d in zip(naive, last, strict=True)]
        optimizer.step(closure_of(weights))
        assert_near(weights, naive)
    assert (optimizer.backwards, optimizer.forwards) == (4, 0)


def test_does_not_perturb_weights_that_died() -> None:
    weights = parameters()
    optimizer = S2SAM(weights, lr=0.1, rho=0.3)
    optimizer.step(closure_of(weights))
    with torch.no_grad():
        weights[0][0].zero_()
    seen = []
    good = closure_of(weights)

    def closure() -> torch.Tensor:
        seen.append(weights[0].detach().clone())
        return good()

    optimizer.step(closure)
    assert torch.equal(seen[0][0], torch.zeros(3, dtype=torch.float64))
    assert (seen[0][1:] != 0).all()


@pytest.mark.parametrize("foreach", [True, False])
def test_each_group_has_its_radius_and_a_number_of_zero_in_a_vector_lives(foreach: bool) -> None:
    weights = parameters()
    groups = [{"params": weights[:1], "rho": 0.2}, {"params": weights[1:]}]
    optimizer = S2SAM(groups, lr=0.1, rho=0.5, foreach=foreach)
    optimizer.step(closure_of(weights))
    with torch.no_grad():
        weights[1][0] = 0
    last = [w.grad.clone() for w in weights]
    at = [w.detach() + r * d / size(last) for w, d, r in zip(weights, last, (0.2, 0.5, 0.5), strict=True)]
    there = gradient_at(at)
    expected = [w - 0.1 * d for w, d in zip(weights, there, strict=True)]
    loss = optimizer.step(closure_of(weights))
    assert_near(weights, expected)
    assert float(loss.detach()) == pytest.approx(float(loss_at(at).detach()), rel=1e-12)
    assert_near([optimizer.state[w]["last"] for w in weights], there)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_last_gradient_of_zero_moves_nothing_and_a_failing_pass_comes_back(dtype: torch.dtype) -> None:
    w = torch.ones(3, dtype=dtype, requires_grad=True)
    w.grad = torch.zeros_like(w)
    optimizer = S2SAM([w], lr=0.1, rho=0.5)

    def flat() -> torch.Tensor:
        loss = (w * 0).sum()
        loss.backward()
        return loss

    for _ in range(2):
        optimizer.step(flat)
        assert torch.equal(w, torch.ones_like(w))
    optimizer.state[w]["last"].fill_(1.0)

    def failing() -> torch.Tensor:
        assert (w != 1).all()
        raise RuntimeError("no luck")

    with pytest.raises(RuntimeError, match="no luck"):
        optimizer.step(failing)
    assert torch.equal(w, torch.ones_like(w))
