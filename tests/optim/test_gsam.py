from __future__ import annotations

import pytest
import torch

from tests.optim.problem import assert_near, closure_of, gradient_at, parameters, size
from unweave.errors import InputError
from unweave.optim import GSAM, SAM


@pytest.mark.parametrize("foreach", [True, False])
def test_is_the_equation(foreach: bool) -> None:
    weights = parameters()
    g = gradient_at(weights)
    moved = [w + 0.3 * d / size(g) for w, d in zip(weights, g, strict=True)]
    there = gradient_at(moved)
    flat, flat_there = (torch.cat([t.flatten() for t in ts]) for ts in (g, there))
    apart = flat - (flat @ flat_there) / (flat_there @ flat_there) * flat_there
    assert float(apart @ flat_there) == pytest.approx(0, abs=1e-12)
    update = torch.split(flat_there - 0.4 * apart, [w.numel() for w in weights])
    expected = [w - 0.1 * u.view_as(w) for w, u in zip(weights, update, strict=True)]
    GSAM(weights, lr=0.1, rho=0.3, alpha=0.4, foreach=foreach).step(closure_of(weights))
    assert_near(weights, expected)


def test_alpha_of_zero_is_sam() -> None:
    one, two = parameters(), parameters()
    for _ in range(3):
        GSAM(one, lr=0.1, rho=0.3, alpha=0.0).step(closure_of(one))
        SAM(two, lr=0.1, rho=0.3).step(closure_of(two))
    assert_near(one, two)


def test_the_radius_follows_the_learning_rate() -> None:
    weights = parameters()
    optimizer = GSAM(weights, lr=0.1, rho=0.3, rho_min=0.1)
    closure_of(weights)()
    assert set(optimizer.radii()) == {0.3}
    optimizer.param_groups[0]["lr"] = 0.05
    assert optimizer.radii()[0] == pytest.approx(0.2)
    optimizer.param_groups[0]["lr"] = 0.0
    assert optimizer.radii()[0] == pytest.approx(0.1)


def test_agrees_with_pytorch_optimizer_whose_closure_is_another() -> None:
    theirs = pytest.importorskip("pytorch_optimizer").GSAM

    class Constant:
        def step(self) -> float:
            return 0.2

    one, two = parameters(), parameters()
    ours = GSAM(one, lr=0.1, momentum=0.9, rho=0.2, alpha=0.4)
    base = torch.optim.SGD(two, lr=0.1, momentum=0.9)
    other = theirs(two, base, model=torch.nn.Identity(), rho_scheduler=Constant(), alpha=0.4)
    for _ in range(5):
        ours.step(closure_of(one))
        with torch.enable_grad():
            other.step(lambda: (None, torch.enable_grad()(closure_of(two))()))
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)  # it takes norms in float32


@pytest.mark.parametrize("lr", [0.1, 0.08, 0.06, 0.02])
def test_a_step_at_the_radius_of_its_learning_rate(lr: float) -> None:
    # rho = 0.1 + 0.2 (lr - 0.02) / (0.1 - 0.02), from the learning rate at the start down to lr_min
    weights = parameters()
    optimizer = GSAM(weights, lr=0.1, rho=0.3, rho_min=0.1, lr_min=0.02, alpha=0.0)
    optimizer.param_groups[0]["lr"] = lr
    g = gradient_at(weights)
    rho = 0.1 + 0.2 * (lr - 0.02) / 0.08
    there = gradient_at([w + rho * d / size(g) for w, d in zip(weights, g, strict=True)])
    expected = [w - lr * d for w, d in zip(weights, there, strict=True)]
    optimizer.step(closure_of(weights))
    assert_near(weights, expected)


def test_the_radius_is_of_each_group_and_never_below_the_smallest() -> None:
    weights = parameters()
    optimizer = GSAM(
        [{"params": weights[:1], "lr": 0.2, "rho": 0.5}, {"params": weights[1:2]}], lr=0.1, rho=0.3, rho_min=0.1,
        lr_min=0.05,
    )  # fmt: skip
    optimizer.add_param_group({"params": weights[2:], "lr": 0.4})
    closure_of(weights)()
    assert optimizer.radii() == pytest.approx([0.5, 0.3, 0.3])
    for group, lr in zip(optimizer.param_groups, (0.125, 0.05, 0.01), strict=True):
        group["lr"] = lr
    assert optimizer.radii() == pytest.approx([0.3, 0.1, 0.1])
    assert [g["lr_max"] for g in optimizer.param_groups] == [0.2, 0.1, 0.4]


def test_refuses_what_would_do_nothing_or_turn_the_schedule_round() -> None:
    with pytest.raises(InputError, match=r"GSAM.lr_min does nothing without rho_min; got 0.01"):
        GSAM(parameters(), lr=0.1, lr_min=0.01)
    weights = parameters()
    with pytest.raises(
        InputError, match=r"GSAM.rho_min must be at most rho, the largest radius, 0.2; got 0.3"
    ):
        GSAM([{"params": weights[:1], "rho": 0.2}, {"params": weights[1:]}], lr=0.1, rho=0.5, rho_min=0.3)
    with pytest.raises(InputError, match=r"GSAM.lr_min must be below lr, .* 0.1; got 0.1"):
        GSAM(parameters(), lr=0.1, rho_min=0.0, lr_min=0.1)
    assert GSAM(parameters(), lr=0.1, rho=0.3, rho_min=0.3, lr_min=0.05).rho_min == 0.3
