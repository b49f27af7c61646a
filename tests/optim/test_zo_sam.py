from __future__ import annotations

import math
from functools import partial

import pytest
import torch

from benchmarks.sam_step import extra_memory
from tests.optim.problem import assert_near, closure_of, gradient_at, loss_at, parameters, size
from unweave.errors import InputError
from unweave.optim import ZOSAM


def perturbation(optimizer: ZOSAM, weights: list[torch.Tensor]) -> list[torch.Tensor]:
    """What a step adds to the weights before its backward pass."""
    before = [w.detach().clone() for w in weights]
    seen: list[list[torch.Tensor]] = []
    good = closure_of(weights)

    def closure() -> torch.Tensor:
        if torch.is_grad_enabled():
            seen.append([w.detach() - b for w, b in zip(weights, before, strict=True)])
        return good()

    optimizer.step(closure)
    return seen[0]


def test_a_step_is_sams_with_another_direction() -> None:
    weights = parameters()
    before = [w.detach().clone() for w in weights]
    optimizer = ZOSAM(weights, lr=0.1, rho=0.3)
    eps = perturbation(optimizer, weights)
    assert float(size(eps)) == pytest.approx(0.3, rel=1e-9)
    there = gradient_at([b + e for b, e in zip(before, eps, strict=True)])
    assert_near(weights, [b - 0.1 * d for b, d in zip(before, there, strict=True)])
    assert (optimizer.backwards, optimizer.forwards) == (1, 2)


def test_points_uphill_and_delta_does_not_matter_with_one_direction() -> None:
    found = []
    for delta in (1e-4, 1e-3):
        weights = parameters()
        before = [w.detach().clone() for w in weights]
        eps = perturbation(ZOSAM(weights, lr=0.1, rho=1e-3, delta=delta), weights)
        assert loss_at([b + e for b, e in zip(before, eps, strict=True)]) > loss_at(before)
        found.append(eps)
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-12)


@pytest.mark.filterwarnings("ignore:ZOSAM with m")
@pytest.mark.parametrize(("m", "directions"), [(1, "gaussian"), (1, "rademacher"), (4, "gaussian")])
def test_the_cosine_to_the_gradient_is_the_formulas(m: int, directions: str) -> None:
    # a linear loss: any difference is exact
    g = torch.randn(500, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    cosines = []
    seen: list[torch.Tensor] = []
    for seed in range(400):
        w = torch.ones(500, dtype=torch.float64, requires_grad=True)

        def closure(w: torch.Tensor = w) -> torch.Tensor:
            if torch.is_grad_enabled():
                w.grad = None
            loss = (g * w).sum()
            if loss.requires_grad:
                seen.append(w.detach().clone())
                loss.backward()
            return loss

        ZOSAM([w], lr=0.1, rho=0.1, m=m, directions=directions, seed=seed).step(closure)
        eps = seen.pop() - 1
        cosines.append(float(eps @ g / eps.norm() / g.norm()))
    expected = math.sqrt(2 / (math.pi * 500)) if m == 1 else math.sqrt(m / (500 + m + 1))
    assert sum(cosines) / len(cosines) == pytest.approx(expected, rel=0.15)


@pytest.mark.filterwarnings("ignore:ZOSAM with m")
def test_many_directions_are_the_mean_of_slopes() -> None:
    weights = parameters()
    before = [w.detach().clone() for w in weights]
    optimizer = ZOSAM(weights, lr=0.1, rho=0.2, m=3, delta=1e-4)
    directions = [list(optimizer._direction(weights, before, i)) for i in range(3)]
    total = [torch.zeros_like(b) for b in before]
    for us in directions:
        slope = sum(float((u * d).sum()) for u, d in zip(us, gradient_at(before), strict=True))
        total = [t + slope * u / 3 for t, u in zip(total, us, strict=True)]
    eps = perturbation(optimizer, weights)
    for a, b in zip(eps, [0.2 * t / size(total) for t in total], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_guided_goes_along_the_last_gradient() -> None:
    weights = parameters()
    optimizer = ZOSAM(weights, lr=0.01, rho=0.1, directions="guided")
    optimizer.step(closure_of(weights))
    last = [w.grad.clone() for w in weights if w.grad is not None]
    eps = perturbation(optimizer, weights)
    for a, b in zip(eps, [0.1 * d / size(last) for d in last], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)


def test_a_flat_loss_is_not_perturbed_and_is_counted() -> None:
    w = torch.ones(3, 3, requires_grad=True)

    def closure() -> torch.Tensor:
        w.grad = None if torch.is_grad_enabled() else w.grad
        loss = (w * 0).sum() + 1
        if loss.requires_grad:
            assert torch.equal(w, torch.ones(3, 3))
            loss.backward()
        return loss

    optimizer = ZOSAM([w], lr=0.1)
    optimizer.step(closure)
    assert optimizer.skipped == 1


def test_pruned_weights_are_never_moved() -> None:
    weights = parameters()
    with torch.no_grad():
        weights[0][:, 1] = 0
    seen = []
    good = closure_of(weights)

    def closure() -> torch.Tensor:
        seen.append(weights[0][:, 1].detach().clone())
        return good()

    ZOSAM(weights, lr=0.1, rho=0.3).step(closure)
    assert len(seen) == 3
    assert all(torch.equal(s, torch.zeros(4, dtype=torch.float64)) for s in seen)


def test_a_closure_that_always_runs_backward_is_told_what_to_do() -> None:
    weights = parameters()

    def closure() -> torch.Tensor:
        loss = loss_at(weights)
        loss.backward()
        return loss

    before = [w.detach().clone() for w in weights]
    with pytest.raises(InputError, match="only if loss.requires_grad"):
        ZOSAM(weights, lr=0.1).step(closure)
    assert all(torch.equal(w, b) for w, b in zip(weights, before, strict=True))


def test_needs_one_copy_of_the_weights_and_no_more() -> None:
    inputs = torch.randn(2, 64)
    for layers in (1, 6):
        model = lambda n=layers: torch.nn.Sequential(*(torch.nn.Linear(64, 64) for _ in range(n)))  # noqa: E731
        assert extra_memory(ZOSAM, model, inputs) == pytest.approx(1, abs=1e-2)
        # the control: the last gradient, kept as a direction, is a second
        assert extra_memory(partial(ZOSAM, directions="guided"), model, inputs) == pytest.approx(2, abs=1e-2)


def test_more_directions_than_sam_costs_are_warned_of() -> None:
    with pytest.warns(UserWarning, match="m = 2 costs 7 forward passes") as told:
        ZOSAM(parameters(), lr=0.1, m=2)
    assert told[0].filename == __file__


def looked_at(
    optimizer: ZOSAM, weights: list[torch.Tensor]
) -> tuple[list[list[torch.Tensor]], list[float], float]:
    """Where a step calls its closure, less the weights before it; the losses there; and the loss it returns."""
    before = [w.detach().clone() for w in weights]
    moves: list[list[torch.Tensor]] = []
    losses: list[float] = []
    good = closure_of(weights)

    def closure() -> torch.Tensor:
        moves.append([w.detach() - b for w, b in zip(weights, before, strict=True)])
        loss = good()
        losses.append(float(loss.detach()))
        return loss

    returned = optimizer.step(closure)
    return moves, losses, float(returned.detach())


def normal(weights: list[torch.Tensor], seed: int, backwards: int, i: int) -> list[torch.Tensor]:
    rng = torch.Generator().manual_seed((seed * 1_000_003 + backwards) * 1_000_003 + i)
    return [torch.empty_like(w).normal_(generator=rng) for w in weights]


@pytest.mark.parametrize("directions", ["gaussian", "rademacher"])
@pytest.mark.parametrize("foreach", [True, False])
def test_the_probes_are_a_pair_along_a_seeded_direction_of_the_default_size(
    directions: str, foreach: bool
) -> None:
    weights = parameters()
    optimizer = ZOSAM(weights, lr=0.1, rho=0.3, directions=directions, seed=3, foreach=foreach)
    for t in range(2):
        u = normal(weights, 3, t, 0)
        if directions == "rademacher":
            u = [d.sign() for d in u]
        delta = 0.3 / math.sqrt(24)
        moves, losses, returned = looked_at(optimizer, weights)
        assert_near(moves[0], [delta * d for d in u])
        assert_near(moves[1], [-delta * d for d in u])
        way = math.copysign(0.3, losses[0] - losses[1])
        assert_near(moves[2], [way * d / size(u) for d in u])
        assert returned == pytest.approx((losses[0] + losses[1]) / 2, rel=1e-12)
    assert (optimizer.forwards, optimizer.backwards) == (4, 2)


def test_the_default_size_counts_living_weights_and_takes_the_largest_radius() -> None:
    weights = parameters()
    with torch.no_grad():
        weights[0][0].zero_()
        weights[1][0] = 0  # of a vector: lives
    optimizer = ZOSAM([{"params": weights[:1], "rho": 0.0}, {"params": weights[1:], "rho": 0.2}], lr=0.1)
    u = normal(weights, 0, 0, 0)
    u[0][0] = 0
    moves, _, _ = looked_at(optimizer, weights)
    assert_near(moves[0], [0.2 / math.sqrt(21) * d for d in u])
    # each group goes as far as its own radius, along one direction
    assert_near(
        [m.abs() for m in moves[2]], [r * d.abs() / size(u) for r, d in zip((0.0, 0.2, 0.2), u, strict=True)]
    )
    none = ZOSAM(weights, lr=0.1, rho=0.0)
    u = normal(weights, 0, 0, 0)
    u[0][0] = 0
    with torch.no_grad():
        weights[0][0].zero_()
    assert_near(looked_at(none, weights)[0][0], [0.05 / math.sqrt(24 - 3) * d for d in u])


@pytest.mark.filterwarnings("ignore:ZOSAM with m")
def test_guided_takes_the_last_gradient_as_the_first_of_several() -> None:
    weights = parameters()
    optimizer = ZOSAM(weights, lr=0.01, rho=0.1, delta=1e-3, m=2, directions="guided")
    optimizer.step(closure_of(weights))
    last = [w.grad.clone() for w in weights]
    first = [d * math.sqrt(24) / size(last) for d in last]  # as long as a Gaussian one
    second = normal(weights, 0, 1, 1)
    moves, losses, returned = looked_at(optimizer, weights)
    assert_near(moves[0], [1e-3 * d for d in first])
    assert_near(moves[2], [1e-3 * d for d in second])
    slopes = [(losses[0] - losses[1]) / 2e-3, (losses[2] - losses[3]) / 2e-3]
    total = [slopes[0] * a + slopes[1] * b for a, b in zip(first, second, strict=True)]
    for a, b in zip(moves[4], [0.1 * t / size(total) for t in total], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-10)
    assert returned == pytest.approx((losses[0] + losses[1]) / 2, rel=1e-12)


def test_a_guide_of_zero_or_of_dead_weights_moves_nothing() -> None:
    weights = parameters()
    optimizer = ZOSAM(weights, lr=0.01, rho=0.1, directions="guided")
    optimizer.step(closure_of(weights))
    with torch.no_grad():
        weights[0][:, 1] = 0
    moves, _, _ = looked_at(optimizer, weights)
    assert all(not m[0][:, 1].any() for m in moves)
    for w in weights:
        optimizer.state[w]["last"].zero_()
    moves, _, _ = looked_at(optimizer, weights)
    assert not any(m.any() for move in moves for m in move)
    assert optimizer.skipped == 1
    again = ZOSAM(parameters(), lr=0.01, directions="guided")
    again.load_state_dict(optimizer.state_dict())
    assert again.skipped == 1
