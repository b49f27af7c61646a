from __future__ import annotations

import pytest
import torch

from tests.optim.problem import assert_near, closure_of, gradient_at, parameters, size
from unweave import seeded
from unweave.optim import ESAM, SAM


def test_beta_of_one_is_sam() -> None:
    one, two = parameters(), parameters()
    ESAM(one, lr=0.1, rho=0.3, beta=1.0).step(closure_of(one))
    SAM(two, lr=0.1, rho=0.3).step(closure_of(two))
    assert_near(one, two)


def test_perturbs_a_share_by_more_and_the_mean_is_sams() -> None:
    weight = torch.linspace(-1, 1, 4000, dtype=torch.float64).view(40, 100).requires_grad_()

    def closure() -> torch.Tensor:
        weight.grad = None
        loss = (weight**2).sum() / 2
        loss.backward()
        return loss

    before = weight.detach().clone()
    shifts = []
    optimizer = ESAM([weight], lr=0.0, rho=1.0, beta=0.25)
    for _ in range(200):
        optimizer.gradient(closure)
        optimizer.first_step()
        shifts.append((weight.detach() - before).clone())
        optimizer.restore()
    moved = torch.stack([s != 0 for s in shifts]).double().mean()
    assert float(moved) == pytest.approx(0.25, abs=0.01)
    mean = torch.stack(shifts).mean(0)
    expected = before / before.norm()
    # each draw has sd sqrt((1 - beta) / beta) of its size; 200 draws leave 0.12 of it
    assert float((mean - expected).norm() / expected.norm()) == pytest.approx((3 / 200) ** 0.5, rel=0.1)


def test_each_step_draws_anew_and_the_seed_governs() -> None:
    def shift(seed: int, steps: int) -> torch.Tensor:
        weights = parameters()
        optimizer = ESAM(weights, lr=0.1, rho=0.3, beta=0.5, seed=seed)
        for _ in range(steps):
            optimizer.step(closure_of(weights))
        optimizer.gradient(closure_of(weights))
        before = weights[0].detach().clone()
        optimizer.first_step()
        return (weights[0].detach() - before) != 0

    assert torch.equal(shift(0, 1), shift(0, 1))
    assert not torch.equal(shift(0, 1), shift(0, 2))
    assert not torch.equal(shift(0, 1), shift(1, 1))


def test_is_the_equation_with_the_draws_of_the_seed_and_the_pass() -> None:
    weights = parameters()
    optimizer = ESAM(weights, lr=0.1, rho=0.3, beta=0.4, seed=5)
    for t in range(2):
        rng = seeded(5 + 2 * t + 1)
        g = gradient_at(weights)
        part = [d * (torch.rand(d.shape, generator=rng) < 0.4) / 0.4 for d in g]
        there = gradient_at([w + 0.3 * d / size(g) for w, d in zip(weights, part, strict=True)])
        expected = [w - 0.1 * d for w, d in zip(weights, there, strict=True)]
        optimizer.step(closure_of(weights))
        assert_near(weights, expected)
