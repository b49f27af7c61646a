from __future__ import annotations

import torch

from tests.optim.problem import assert_near, closure_of, gradient_at, parameters, size
from unweave.optim import ASAM, SAM


def test_is_the_equation() -> None:
    weights = parameters()
    g = gradient_at(weights)
    t = [w.detach().abs() + 0.01 if w.ndim > 1 else torch.ones_like(w) for w in weights]
    length = size([a * b for a, b in zip(t, g, strict=True)])
    moved = [w + 0.4 * a * a * b / length for w, a, b in zip(weights, t, g, strict=True)]
    expected = [w - 0.1 * d for w, d in zip(weights, gradient_at(moved), strict=True)]
    ASAM(weights, lr=0.1, rho=0.4, eta=0.01).step(closure_of(weights))
    assert_near(weights, expected)


def test_eta_perturbs_zero_weights_and_without_it_they_stay() -> None:
    for eta, moved in ((0.5, True), (0.0, False)):
        weights = parameters()
        with torch.no_grad():
            weights[0].zero_()
        optimizer = ASAM(weights, lr=0.1, rho=0.4, eta=eta)
        closure_of(weights)()
        optimizer.first_step()
        assert bool((weights[0] != 0).any()) is moved


def test_a_large_eta_is_sam() -> None:
    # T grows to eta times the identity: eps tends to rho eta g / ||g|| for the layers' weights
    one, two = parameters()[:1], parameters()[:1]

    def closure_for(w: torch.Tensor):
        def closure() -> torch.Tensor:
            w.grad = None
            loss = torch.cosh(w).sum()
            loss.backward()
            return loss

        return closure

    ASAM(one, lr=0.1, rho=1e-7, eta=1e6).step(closure_for(one[0]))
    SAM(two, lr=0.1, rho=0.1).step(closure_for(two[0]))
    torch.testing.assert_close(one[0], two[0], rtol=1e-5, atol=1e-6)
