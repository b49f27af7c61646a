from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import Tensor

pytest.importorskip("pytorch_optimizer", reason="the optim extra is not installed")

from unweave import seeded
from unweave.errors import InputError
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


START = torch.randn(4, 3, generator=seeded(5), dtype=torch.float64)
GRADIENTS = [torch.randn(4, 3, generator=seeded(10 + t), dtype=torch.float64) for t in range(7)]


def after(**settings) -> Tensor:
    w = START.clone().requires_grad_()
    optimizer = SOAP([w], lr=0.05, betas=(0.9, 0.8), weight_decay=0.0, precondition_frequency=3, **settings)
    for g in GRADIENTS:
        w.grad = g.clone()
        optimizer.step()
    return w.detach()


def theirs(**settings) -> Tensor:
    w = START.clone().requires_grad_()
    made = pytest.importorskip("pytorch_optimizer").SOAP
    optimizer = made([w], lr=0.05, betas=(0.9, 0.8), weight_decay=0.0, precondition_frequency=3, **settings)
    for g in GRADIENTS:
        w.grad = g.clone()
        optimizer.step()
    return w.detach()


@pytest.mark.parametrize(
    ("ours", "packages"),
    [
        ({}, {"shampoo_beta": 0.8}),
        ({"shampoo_beta": 0.5}, {"shampoo_beta": 0.5}),
        ({"shampoo_beta": 0.0}, {"shampoo_beta": 0.0}),
        ({"eps": 0.5}, {"eps": 0.5}),
        ({"max_precond_dim": 3}, {"max_precondition_dim": 3}),
        ({"normalize_grads": True}, {"normalize_gradient": True}),
        ({"correct_bias": False}, {"correct_bias": False}),
        ({"merge_dims": True, "max_precond_dim": 4}, {"merge_dims": True, "max_precondition_dim": 4}),
    ],
    ids=str,
)
def test_each_setting_is_the_packages(ours, packages) -> None:
    assert torch.equal(after(**ours), theirs(**packages))
    if ours and "merge_dims" not in ours:
        assert float((after(**ours) - after()).norm()) > 1e-3


def test_vectors_are_rotated_where_asked() -> None:
    ends = []
    for rotated in (False, True):
        w = START[:, 0].clone().requires_grad_()
        optimizer = SOAP([w], lr=0.05, weight_decay=0.1, precondition_1d=rotated)
        for g in GRADIENTS:
            w.grad = g[:, 0].clone()
            optimizer.step()
        ends.append(w.detach())
        assert (len(optimizer.state[w]["GG"][0]) > 0) is rotated
    assert float((ends[0] - ends[1]).norm()) > 1e-3


def test_folding_a_tensor_into_one_dimension_is_refused_before_it_fails() -> None:
    def weights(*shape: int) -> Tensor:
        return torch.ones(shape, requires_grad=True)

    with pytest.raises(InputError, match=r"SOAP.merge_dims would fold a tensor of shape \(4, 3\).*below 12"):
        SOAP([weights(4, 3)], merge_dims=True, max_precond_dim=12)
    optimizer = SOAP([weights(4, 3), weights(5)], merge_dims=True, max_precond_dim=11)
    with pytest.raises(InputError, match=r"SOAP.merge_dims would fold a tensor of shape \(2, 2\)"):
        optimizer.add_param_group({"params": [weights(2, 2)]})
    SOAP([weights(4, 3)])


def test_state_goes_to_and_from_the_package() -> None:
    made = pytest.importorskip("pytorch_optimizer").SOAP
    one, two = (START.clone().requires_grad_() for _ in range(2))
    ours, packages = (
        SOAP([one], lr=0.05, precondition_frequency=2),
        made([two], lr=0.05, precondition_frequency=2),
    )
    for g in GRADIENTS[:3]:
        for w, optimizer in ((one, ours), (two, packages)):
            w.grad = g.clone()
            optimizer.step()
    told = ours.state_dict()
    ours = SOAP([one], lr=0.5)
    packages.load_state_dict(deepcopy(told))
    ours.load_state_dict(deepcopy(packages.state_dict()))
    group = ours.param_groups[0]
    assert (group["step"], group["lr"], group["precondition_frequency"]) == (3, 0.05, 2)
    for g in GRADIENTS[3:]:
        for w, optimizer in ((one, ours), (two, packages)):
            w.grad = g.clone()
            optimizer.step()
    assert torch.equal(one, two)


def test_a_closure_is_called_once_and_its_loss_returned() -> None:
    w = START.clone().requires_grad_()
    optimizer, calls = SOAP([w]), []

    def closure() -> Tensor:
        calls.append(torch.is_grad_enabled())
        optimizer.zero_grad()
        loss = w.square().sum()
        loss.backward()
        return loss

    assert float(optimizer.step(closure).detach()) == pytest.approx(float(START.square().sum()))
    assert calls == [True]
    assert isinstance(optimizer, SOAP)


@pytest.mark.parametrize(
    "bad",
    [
        {"betas": (1.0, 0.9)}, {"betas": (0.9, -0.1)}, {"betas": (0.9,)}, {"shampoo_beta": -0.5}, {"shampoo_beta": 1.0},
        {"eps": 0.0}, {"weight_decay": -0.1}, {"max_precond_dim": 0}, {"lr": float("nan")},
    ],
    ids=str,
)  # fmt: skip
def test_refuses(bad) -> None:
    with pytest.raises(InputError, match=f"SOAP.{next(iter(bad))} must be"):
        SOAP([START.clone().requires_grad_()], **bad)
