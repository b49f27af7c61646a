from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment, linprog

from unweave import seeded
from unweave.errors import InputError
from unweave.interpret.transport import entropic_plan, exact_plan


def costs(n: int, m: int, seed: int = 0) -> torch.Tensor:
    rng = seeded(seed)
    return torch.cdist(
        torch.randn(n, 3, generator=rng, dtype=torch.float64),
        torch.randn(m, 3, generator=rng, dtype=torch.float64),
    )


def oracle(c: torch.Tensor, mass: float) -> float:
    """The linear programme as it is written, dense."""
    n, m = c.shape
    rows = np.kron(np.eye(n), np.ones((1, m)))
    columns = np.kron(np.ones((1, n)), np.eye(m))
    limits = np.r_[np.full(n, 1 / n), np.full(m, 1 / m)]
    found = linprog(
        c.numpy().ravel(), A_ub=np.r_[rows, columns], b_ub=limits, A_eq=np.ones((1, n * m)), b_eq=[mass]
    )
    return float(found.fun)


@pytest.mark.parametrize("mass", [1.0, 0.875, 0.75, 0.6, 0.5, 0.13, 0.04])
@pytest.mark.parametrize(("n", "m"), [(8, 8), (5, 9), (1, 1)])
def test_equals_the_linear_programme_and_keeps_the_masses(n: int, m: int, mass: float) -> None:
    for seed in range(3):
        c = costs(n, m, seed)
        plan = exact_plan(c, mass)
        assert float((plan * c).sum()) == pytest.approx(oracle(c, mass), abs=1e-9)
        assert float(plan.sum()) == pytest.approx(mass, abs=1e-6)
        assert float(plan.min()) >= 0
        assert float(plan.sum(1).max()) <= 1 / n + 1e-6
        assert float(plan.sum(0).max()) <= 1 / m + 1e-6


def test_all_of_the_mass_is_the_assignment() -> None:
    c = costs(12, 12)
    rows, columns = linear_sum_assignment(c.numpy())
    expected = torch.zeros(12, 12, dtype=torch.float64)
    expected[rows, columns] = 1 / 12
    assert torch.equal(exact_plan(c), expected)


def test_corrupted_points_are_left_out() -> None:
    x = torch.randn(12, 4, generator=seeded(0), dtype=torch.float64)
    y = x.clone()
    y[:3] += 50
    plan = exact_plan(torch.cdist(x, y), 0.75)
    assert plan[3:].diagonal(3).tolist() == pytest.approx([1 / 12] * 9)
    assert not plan[:3].any()
    assert not plan[:, :3].any()


@pytest.mark.parametrize("mass", [1.0, 0.6])
def test_the_entropic_plan_comes_near_as_its_blur_goes(mass: float) -> None:
    c = torch.stack([costs(7, 7, s) for s in range(3)])
    best = sum(float((exact_plan(one, mass) * one).sum()) for one in c)
    off = []
    for blur in (0.5, 0.05, 0.01):
        plan = entropic_plan(c, mass, blur=blur, rounds=3000)
        assert plan.sum((1, 2)).tolist() == pytest.approx([mass] * 3, abs=1e-3)
        assert float(plan.sum(2).max()) <= 1 / 7 + 1e-6
        off.append(float((plan * c).sum()) - best)
    assert off[0] > off[1] > off[2] > -1e-3
    assert off[2] < 0.02 * best
    half = entropic_plan(c.bfloat16(), mass)
    assert half.dtype == torch.float32
    assert bool(half.isfinite().all())


def test_refuses() -> None:
    for mass in (0.0, -0.5, 1.1):
        for plan in (exact_plan, entropic_plan):
            with pytest.raises(InputError, match=f"mass must be above 0 and at most 1.*got {mass}"):
                plan(costs(3, 3), mass)
    with pytest.raises(InputError, match="costs are finite"):
        exact_plan(costs(3, 3) * torch.nan)
    with pytest.raises(InputError, match=r"a point on each side; got shape \(0, 3\)"):
        exact_plan(torch.zeros(0, 3))
