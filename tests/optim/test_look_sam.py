from __future__ import annotations

import pytest
import torch

from tests.optim.problem import assert_near, closure_of, gradient_at, parameters
from unweave.optim import SAM, LookSAM


def flat(tensors: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat([t.detach().flatten() for t in tensors])


def test_is_the_equation_over_one_vector() -> None:
    weights = parameters()
    w = flat(weights)
    sizes = [p.numel() for p in weights]

    def gradient(at: torch.Tensor) -> torch.Tensor:
        return flat(gradient_at([v.view_as(p) for v, p in zip(at.split(sizes), weights, strict=True)]))

    apart = torch.zeros_like(w)
    optimizer = LookSAM(weights, lr=0.1, rho=0.3, k=2, alpha=0.7)
    for t in range(4):
        g = gradient(w)
        if t % 2 == 0:
            there = gradient(w + 0.3 * g / g.norm())
            apart = there - (there @ g) / (g @ g) * g
            w = w - 0.1 * there
        else:
            w = w - 0.1 * (g + 0.7 * g.norm() / apart.norm() * apart)
        optimizer.step(closure_of(weights))
        torch.testing.assert_close(flat(weights), w, rtol=1e-9, atol=1e-12)
    assert (optimizer.backwards, optimizer.forwards) == (6, 0)


def test_k_of_one_is_sam() -> None:
    one, two = parameters(), parameters()
    a, b = LookSAM(one, lr=0.1, rho=0.3, k=1), SAM(two, lr=0.1, rho=0.3)
    for _ in range(3):
        a.step(closure_of(one))
        b.step(closure_of(two))
    assert_near(one, two)


@pytest.mark.parametrize(("tensors", "same"), [(1, True), (3, False)])
def test_pytorch_optimizer_projects_tensor_by_tensor_and_always_looks_twice(tensors: int, same: bool) -> None:
    # why ours is our own: with one tensor they agree, with several its projection is not the paper's
    theirs = pytest.importorskip("pytorch_optimizer").LookSAM
    one, two = parameters(), parameters()
    for w in (*one[tensors:], *two[tensors:]):
        w.requires_grad_(False)
    ours = LookSAM(one[:tensors], lr=0.1, rho=0.2, k=3, alpha=0.7)
    other = theirs(two[:tensors], torch.optim.SGD, lr=0.1, rho=0.2, k=3, alpha=0.7)
    calls = []

    def closure() -> torch.Tensor:
        calls.append(1)
        return closure_of(two)()

    for _ in range(6):
        ours.step(closure_of(one))
        closure()  # it wants gradients before its step
        other.step(closure)
    apart = max(float((a - b).detach().abs().max()) for a, b in zip(one, two, strict=True))
    assert (apart < 1e-6) is same
    assert (ours.backwards, len(calls)) == (8, 12)
