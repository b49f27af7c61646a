from __future__ import annotations

import math
from copy import deepcopy

import pytest
import torch
from torch import nn

from unweave import seeded
from unweave.unlearn._muon import Muon, newton_schulz


def slow(matrix: torch.Tensor, iterations: int) -> torch.Tensor:
    """By singular values alone: each goes through the odd quintic, its vectors stay."""
    u, s, vh = torch.linalg.svd(matrix.double(), full_matrices=False)
    s = s / s.square().sum().sqrt()
    for _ in range(iterations):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return u @ torch.diag(s) @ vh


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4), (1, 7), (7, 1)])
@pytest.mark.parametrize("iterations", [1, 2, 5])
def test_newton_schulz_is_a_quintic_of_the_singular_values(shape, iterations) -> None:
    matrix = torch.randn(shape, generator=seeded(1), dtype=torch.float64)
    torch.testing.assert_close(
        newton_schulz(matrix, iterations), slow(matrix, iterations), rtol=1e-9, atol=1e-9
    )


def test_newton_schulz_leaves_zeros_and_ignores_scale() -> None:
    assert not newton_schulz(torch.zeros(3, 2), 5).any()
    matrix = torch.randn(4, 6, generator=seeded(2), dtype=torch.float64)
    torch.testing.assert_close(newton_schulz(matrix, 5), newton_schulz(1e-6 * matrix, 5))


def model() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(2, 6, 3), nn.Flatten(), nn.Linear(24, 3)).double()


def gradients(m: nn.Module, seed: int) -> list[torch.Tensor]:
    draw = seeded(seed)
    found = [torch.randn(p.shape, generator=draw, dtype=p.dtype) for p in m.parameters()]
    for p, g in zip(m.parameters(), found, strict=True):
        p.grad = g.clone()
    return found


def test_equals_the_update_rule() -> None:
    m, lr, adam_lr = model(), 0.2, 0.03
    optimizer = Muon(m.parameters(), lr=lr, adam_lr=adam_lr, newton_schulz=3)
    weights = [p.detach().clone() for p in m.parameters()]
    momentum = [torch.zeros_like(w) for w in weights]
    mean, square = [torch.zeros_like(w) for w in weights], [torch.zeros_like(w) for w in weights]
    for t in range(1, 4):
        for i, g in enumerate(gradients(m, t)):
            if weights[i].ndim > 1:
                momentum[i] = 0.9 * momentum[i] + g
                flat = (g + 0.9 * momentum[i]).reshape(g.shape[0], -1)
                scale = math.sqrt(max(1.0, flat.shape[0] / flat.shape[1]))
                weights[i] = weights[i] - lr * scale * slow(flat, 3).reshape(g.shape)
            else:
                mean[i], square[i] = 0.9 * mean[i] + 0.1 * g, 0.95 * square[i] + 0.05 * g * g
                step = (mean[i] / (1 - 0.9**t)) / ((square[i] / (1 - 0.95**t)).sqrt() + 1e-8)
                weights[i] = weights[i] - adam_lr * step
        optimizer.step()
    for p, w in zip(m.parameters(), weights, strict=True):
        torch.testing.assert_close(p.detach(), w, rtol=1e-9, atol=1e-10)


def test_a_tall_matrix_moves_further() -> None:
    tall = nn.Linear(1, 9, bias=False).double()
    before = tall.weight.detach().clone()
    tall.weight.grad = torch.full((9, 1), 1.0, dtype=torch.float64)
    Muon(tall.parameters(), lr=1.0, newton_schulz=5).step()
    one = slow(torch.full((9, 1), 1.0), 5).norm()
    assert float((tall.weight - before).detach().norm()) == pytest.approx(3 * float(one))


def test_agrees_with_torch_on_matrices() -> None:
    ours, theirs = nn.Linear(8, 5, bias=False), nn.Linear(8, 5, bias=False)
    theirs.load_state_dict(ours.state_dict())
    before = ours.weight.detach().clone()
    first = Muon(ours.parameters(), lr=0.1)
    second = torch.optim.Muon(theirs.parameters(), lr=0.1, weight_decay=0.0, momentum=0.9)
    for t in range(3):
        g = torch.randn(5, 8, generator=seeded(t))
        ours.weight.grad, theirs.weight.grad = g.clone(), g.clone()
        first.step()
        second.step()
    moved = float((ours.weight - before).detach().norm())
    assert float((ours.weight - theirs.weight).detach().norm()) < 0.03 * moved  # theirs runs in bfloat16


def test_steps_by_a_closure_leaves_what_has_no_gradient_and_survives_saving() -> None:
    m = model()
    m[0].bias.requires_grad_(False)
    still = m[0].bias.detach().clone()
    x = torch.randn(4, 2, 4, 4, generator=seeded(0), dtype=torch.float64)
    optimizer = Muon(m.parameters())

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = m(x).square().mean()
        loss.backward()
        return loss

    losses = [float(optimizer.step(closure).detach()) for _ in range(2)]
    assert losses[1] < losses[0]
    assert torch.equal(m[0].bias, still)
    twin = model()
    twin.load_state_dict(m.state_dict())
    again = Muon(twin.parameters())
    again.load_state_dict(deepcopy(optimizer.state_dict()))
    for one, opt in ((m, optimizer), (twin, again)):
        gradients(one, 9)
        one[0].bias.grad = None
        opt.step()
    assert all(torch.equal(a, b) for a, b in zip(m.parameters(), twin.parameters(), strict=True))
