from __future__ import annotations

import pytest
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


def test_rescaling_layers_that_cancel_changes_nothing_without_eta() -> None:
    # relu(c W1 x) W2 / c is the same function for every c > 0; only ASAM's perturbed loss is the same too
    rng = torch.Generator().manual_seed(0)
    first, second = (torch.randn(s, generator=rng, dtype=torch.float64) for s in ((6, 3), (2, 6)))
    x = torch.randn(20, 3, generator=rng, dtype=torch.float64)

    def risen(cls: type[SAM], c: float, **settings: float) -> float:
        weights = [(first * c).requires_grad_(), (second / c).requires_grad_()]

        def closure() -> torch.Tensor:
            for w in weights:
                w.grad = None
            loss = torch.nn.functional.cross_entropy(
                (x @ weights[0].T).relu() @ weights[1].T, torch.arange(20) % 2
            )
            loss.backward()
            return loss

        optimizer = cls(weights, lr=0.1, **settings)
        closure()
        optimizer.first_step()
        return float(closure().detach())

    assert risen(ASAM, 10.0, rho=0.3, eta=0.0) == pytest.approx(risen(ASAM, 1.0, rho=0.3, eta=0.0), rel=1e-9)
    assert abs(risen(SAM, 10.0, rho=0.3) - risen(SAM, 1.0, rho=0.3)) > 0.1


def test_pytorch_optimizer_leaves_eta_out_and_scales_biases_too() -> None:
    theirs = pytest.importorskip("pytorch_optimizer").SAM

    def moved(optimizer: torch.optim.Optimizer, weights: list[torch.Tensor]) -> list[torch.Tensor]:
        before = [w.detach().clone() for w in weights]
        closure_of(weights)()
        optimizer.first_step()
        return [w.detach() - b for w, b in zip(weights, before, strict=True)]

    one, two = parameters(), parameters()
    ours = moved(ASAM(one, lr=0.1, rho=0.3, eta=0.0), one)
    other = moved(theirs(two, torch.optim.SGD, lr=0.1, rho=0.3, adaptive=True), two)
    # where weights alone are trained the two are the same up to the norm; a bias they move by its own square
    ratios = [o[a != 0] / a[a != 0] for o, a in zip(other, ours, strict=True)]
    assert float(ratios[0].std()) < 1e-6
    assert float(ratios[2].std()) < 1e-6
    assert float(ratios[1].std()) > 0.1


@pytest.mark.parametrize("foreach", [True, False])
def test_each_group_has_its_radius_and_only_layers_are_scaled(foreach: bool) -> None:
    weights = parameters()
    g = gradient_at(weights)
    t = [w.detach().abs() + 0.5 if w.ndim > 1 else torch.ones_like(w) for w in weights]
    length = size([a * b for a, b in zip(t, g, strict=True)])
    moved = [w + r * a * a * b / length for w, a, b, r in zip(weights, t, g, (0.2, 0.4, 0.4), strict=True)]
    expected = [w - 0.1 * d for w, d in zip(weights, gradient_at(moved), strict=True)]
    groups = [{"params": weights[:1], "rho": 0.2}, {"params": weights[1:]}]
    ASAM(groups, lr=0.1, rho=0.4, eta=0.5, foreach=foreach).step(closure_of(weights))
    assert_near(weights, expected)
