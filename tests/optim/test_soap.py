from __future__ import annotations

import pytest
import torch
from torch import Tensor

pytest.importorskip("pytorch_optimizer", reason="the optim extra is not installed")

from unweave import seeded
from unweave.optim import SOAP


def reference(
    w: Tensor,
    gradients: list[Tensor],
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    decay: float,
    every: int,
) -> Tensor:
    """The paper's algorithm 3 for one matrix, in float64, with one power iteration and QR a refresh."""
    b1, b2 = betas
    w = w.clone()
    left = right = None
    m, v, t = torch.zeros_like(w), torch.zeros_like(w), 0
    for g in gradients:
        if left is None:
            left, right = (1 - b2) * g @ g.T, (1 - b2) * g.T @ g
            ql, qr = (
                torch.linalg.eigh(f + 1e-30 * torch.eye(len(f), dtype=f.dtype)).eigenvectors.flip(1)
                for f in (left, right)
            )
            continue
        t += 1
        turned = ql.T @ g @ qr
        m = b1 * m + (1 - b1) * turned
        v = b2 * v + (1 - b2) * turned**2
        step = lr * (1 - b2**t) ** 0.5 / (1 - b1**t)
        w = w - step * ql @ (m / (v.sqrt() + eps)) @ qr.T
        w = w - lr * decay * w
        back = ql @ m @ qr.T
        left, right = b2 * left + (1 - b2) * g @ g.T, b2 * right + (1 - b2) * g.T @ g
        if t % every == 0:
            ends = []
            for factor, q, dim in ((left, ql, 0), (right, qr, 1)):
                order = (q.T @ factor @ q).diagonal().argsort(descending=True)
                v = v.index_select(dim, order)
                ends.append(torch.linalg.qr(factor @ q[:, order]).Q)
            ql, qr = ends
        m = ql.T @ back @ qr
    return w


def test_is_the_papers_algorithm() -> None:
    rng = seeded(0)
    start = torch.randn(5, 4, generator=rng, dtype=torch.float64)
    gradients = [torch.randn(5, 4, generator=rng, dtype=torch.float64) for _ in range(50)]
    w = start.clone().requires_grad_()
    optimizer = SOAP([w], lr=0.01, betas=(0.9, 0.95), weight_decay=0.1, precondition_frequency=5)
    for g in gradients:
        w.grad = g.clone()
        optimizer.step()
    expected = reference(start, gradients, lr=0.01, betas=(0.9, 0.95), eps=1e-8, decay=0.1, every=5)
    torch.testing.assert_close(w.detach(), expected, rtol=1e-4, atol=1e-5)


def descend(make, turn: Tensor, steps: int = 60) -> list[float]:
    rng = seeded(1)
    a, target = (torch.randn(6, 6, generator=rng, dtype=torch.float64) for _ in range(2))
    w = torch.zeros(6, 6, dtype=torch.float64, requires_grad=True)
    optimizer, losses = make([w]), []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = ((a @ turn @ w) - target).square().sum()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def test_a_rotation_of_the_problem_changes_nothing_as_it_does_with_adam() -> None:
    plain = torch.eye(6, dtype=torch.float64)
    turned = torch.linalg.qr(torch.randn(6, 6, generator=seeded(2), dtype=torch.float64)).Q
    soap, adam = ({}, {})
    for losses, make in (
        (soap, lambda p: SOAP(p, lr=0.03, weight_decay=0.0, precondition_frequency=1)),
        (adam, lambda p: torch.optim.Adam(p, lr=0.03, betas=(0.95, 0.95))),
    ):
        losses.update({"plain": descend(make, plain), "turned": descend(make, turned)})

    def gap(losses: dict[str, list[float]]) -> float:
        return max(abs(a - b) / a for a, b in zip(losses["plain"], losses["turned"], strict=True))

    assert gap(soap) < 1e-2
    assert gap(adam) > 5 * gap(soap)


def test_the_basis_is_refreshed_as_often_as_told() -> None:
    eye = torch.eye(6, dtype=torch.float64)
    runs = [
        descend(lambda p, f=f: SOAP(p, lr=0.03, weight_decay=0.0, precondition_frequency=f), eye, 30)
        for f in (5, 1000)
    ]
    assert (
        runs[0][:6] == runs[1][:6]
    )  # the first step makes the basis, five more follow before the first refresh
    assert runs[0][-1] != runs[1][-1]


def test_the_first_step_only_makes_the_basis() -> None:
    w = torch.ones(3, 3, requires_grad=True)
    w.grad = torch.randn(3, 3, generator=seeded(0))
    SOAP([w]).step()
    assert torch.equal(w, torch.ones(3, 3))


def test_absent_it_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from unweave.errors import MissingExtraError

    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)
    with pytest.raises(MissingExtraError, match=r"unweave\[optim\]"):
        SOAP([torch.ones(2, 2, requires_grad=True)])
