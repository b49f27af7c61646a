from __future__ import annotations

import torch

from tests.optim.problem import assert_near, closure_of, gradient_at, parameters, size
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


def test_pytorch_optimizer_projects_tensor_by_tensor() -> None:
    # why ours is our own: over one vector the projections differ
    g, there = gradient_at(parameters()), gradient_at(parameters(1))
    whole = flat(there) @ flat(g) / (size(g) ** 2)
    by_tensor = [float((a * b).sum() / (b * b).sum()) for a, b in zip(there, g, strict=True)]
    assert max(abs(c - float(whole)) for c in by_tensor) > 0.1
