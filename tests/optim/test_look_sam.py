from __future__ import annotations

import pytest
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


def test_what_died_since_the_look_is_left_out_and_what_is_new_goes_plainly() -> None:
    weights = parameters()
    new = torch.ones(2, dtype=torch.float64, requires_grad=True)
    optimizer = LookSAM([*weights, new], lr=0.1, rho=0.3, k=2, alpha=0.7)
    optimizer.step(closure_of(weights))  # `new` has no gradient yet, so that nothing of it is known
    with torch.no_grad():
        weights[0][0].zero_()
        weights[1][1] = 0
    good, dead = closure_of(weights), torch.zeros(4, 3, dtype=torch.bool)
    dead[0] = True

    def closure() -> torch.Tensor:
        loss = good()
        with torch.no_grad():
            weights[0].grad[dead] = 0  # as `fit_` does for a mask
        new.grad = torch.tensor([3.0, 4.0], dtype=torch.float64)
        return loss

    g = gradient_at(weights)
    g[0][dead] = 0
    apart = [optimizer.state[w]["apart"].clone() for w in weights]
    apart[0][dead] = 0
    # the weight of zero in the vector has a gradient: it lives
    assert float(g[1][1]) != 0
    scale = 0.7 * (size(g) ** 2 + 25).sqrt() / size(apart)
    expected = [w - 0.1 * (d + scale * a) for w, d, a in zip(weights, g, apart, strict=True)]
    optimizer.step(closure)
    assert_near([*weights, new], [*expected, torch.tensor([0.7, 0.6], dtype=torch.float64)])


def test_a_gradient_of_zero_at_the_look_leaves_the_whole_second_one() -> None:
    w = torch.zeros(3, dtype=torch.float64, requires_grad=True)

    def closure() -> torch.Tensor:
        w.grad = None
        loss = (w**2).sum() / 2
        loss.backward()
        return loss

    optimizer = LookSAM([w], lr=0.1, rho=0.5, k=2)
    optimizer.step(closure)
    assert torch.equal(optimizer.state[w]["apart"], torch.zeros(3, dtype=torch.float64))
    with torch.no_grad():
        w.add_(1.0)
    optimizer.step(closure)  # nothing is remembered: a plain step
    torch.testing.assert_close(w.detach(), torch.full((3,), 0.9, dtype=torch.float64))


def test_a_look_is_taken_at_every_kth_step_counted_over_all_parameters() -> None:
    first, late = (torch.ones(2, dtype=torch.float64, requires_grad=True) for _ in range(2))
    calls: list[int] = []

    def closure_with(*used: torch.Tensor):
        def closure() -> torch.Tensor:
            calls[-1] += 1
            first.grad = late.grad = None
            loss = sum((w**2).sum() for w in used)
            loss.backward()
            return loss

        return closure

    optimizer = LookSAM([first, late], lr=0.01, k=3)
    for used in ((first, late), (late,), (first,), (first,), (late,), (first, late), (first,)):
        calls.append(0)
        optimizer.step(closure_with(*used))
    assert calls == [2, 1, 1, 2, 1, 1, 2]
