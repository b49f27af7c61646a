from __future__ import annotations

import pytest
import torch

from unweave import seeded
from unweave.errors import InputError
from unweave.optim.subgm import Dense, Entries, SubGM, spectral_rank


def problem(
    d: int = 10, r: int = 2, m: int = 500, wrong: float = 0.3, seed: int = 0
) -> tuple[torch.Tensor, Dense, torch.Tensor]:
    rng = seeded(seed)
    q = torch.linalg.qr(torch.randn(d, r, generator=rng, dtype=torch.float64)).Q
    x = q @ q.T
    a = Dense(torch.randn(m, d, d, generator=rng, dtype=torch.float64))
    y = a.of(x)
    hit = torch.rand(m, generator=rng) < wrong
    return x, a, torch.where(hit, 10 * torch.randn(m, generator=rng, dtype=torch.float64), y)


def error(found: torch.Tensor, x: torch.Tensor) -> float:
    return float((found - x).norm() / x.norm())


def test_recovers_from_outliers_without_the_rank() -> None:
    x, a, y = problem()
    found = SubGM().recover(a, y)
    assert error(found.x, x) < 1e-4
    assert found.rank == 2
    assert torch.allclose(found.factor @ found.factor.T, found.x)


def test_a_small_start_is_what_does_it() -> None:
    x, a, y = problem()
    errors = [error(SubGM(alpha=alpha).recover(a, y).x, x) for alpha in (1.0, 1e-3, 1e-6)]
    assert errors[0] > 10 * errors[1] > 100 * errors[2]


def test_squares_instead_of_sizes_fail() -> None:
    x, a, y = problem()
    u = 1e-3 * torch.randn(10, 10, generator=seeded(1), dtype=torch.float64)
    for _ in range(2000):
        residual = a.of(u @ u.T) - y
        u = u - 0.02 * (2 / len(y)) * a.back(residual) @ u
    assert error(u @ u.T, x) > 0.3


def test_the_step_is_a_subgradient() -> None:
    _, a, y = problem(d=4, m=30)
    u = torch.randn(4, 3, generator=seeded(3), dtype=torch.float64, requires_grad=True)
    loss = (a.of(u @ u.T) - y).abs().mean()
    loss.backward()
    mine = (2 / len(y)) * a.back((a.of(u @ u.T) - y).sign()) @ u
    torch.testing.assert_close(mine.detach(), u.grad)


def test_without_noise_polyaks_step_converges() -> None:
    x, a, y = problem(wrong=0.0)
    assert error(SubGM(step="polyak", alpha=1e-4, eta=0.5).recover(a, y).x, x) < 1e-3


def test_scale_does_not_matter() -> None:
    x, a, y = problem()
    assert error(SubGM().recover(a, 1000 * y).x, 1000 * x) < 1e-4


def test_entries_are_measurements_too() -> None:
    x, _, _ = problem(d=6)
    rows, columns = torch.meshgrid(torch.arange(6), torch.arange(6), indexing="ij")
    seen = Entries(rows.flatten(), columns.flatten(), 6)
    torch.testing.assert_close(seen.of(x), x.flatten())
    w = torch.randn(36, generator=seeded(0), dtype=torch.float64)
    dense = Dense(torch.eye(36, dtype=torch.float64).view(36, 6, 6))
    torch.testing.assert_close(seen.back(w), dense.back(w))


def test_the_spectral_rank() -> None:
    assert spectral_rank(torch.diag(torch.tensor([3.0, 2.0, 1e-6, 0.0]))) == 2
    assert spectral_rank(torch.zeros(3, 3)) == 0


def test_refuses() -> None:
    for bad in ({"alpha": 0.0}, {"eta": 0.0}, {"decay": 1.0}, {"steps": 0}, {"rank": 0}):
        with pytest.raises(InputError, match="SubGM"):
            SubGM(**bad)
    _, a, y = problem(d=4, m=30)
    with pytest.raises(InputError, match="not finite, or all zero"):
        SubGM().recover(a, y * 0)
    with pytest.raises(InputError, match="29 values for 30"):
        SubGM().recover(a, y[:-1])
