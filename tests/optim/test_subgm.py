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
        total = a.back(residual)
        u = u - 0.02 * (1 / len(y)) * (total + total.T) @ u
    assert error(u @ u.T, x) > 0.3


def test_the_step_is_a_subgradient() -> None:
    _, a, y = problem(d=4, m=30)
    u = torch.randn(4, 3, generator=seeded(3), dtype=torch.float64, requires_grad=True)
    loss = (a.of(u @ u.T) - y).abs().mean()
    loss.backward()
    total = a.back((a.of(u @ u.T) - y).sign())
    mine = (1 / len(y)) * (total + total.T) @ u
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
    seen = Entries(rows.flatten(), columns.flatten(), (6, 6))
    torch.testing.assert_close(seen.of(x), x.flatten())
    w = torch.randn(36, generator=seeded(0), dtype=torch.float64)
    dense = Dense(torch.eye(36, dtype=torch.float64).view(36, 6, 6))
    torch.testing.assert_close(seen.back(w), dense.back(w))


def oblong(wrong: float = 0.3, seed: int = 0) -> tuple[torch.Tensor, Dense, torch.Tensor]:
    """A 12 x 8 matrix of rank 2 with singular values 1 and 1, and its measurements."""
    rng = seeded(seed)
    p, q = (torch.linalg.qr(torch.randn(d, 2, generator=rng, dtype=torch.float64)).Q for d in (12, 8))
    x = p @ q.T
    a = Dense(torch.randn(700, 12, 8, generator=rng, dtype=torch.float64))
    y = a.of(x)
    hit = torch.rand(700, generator=rng) < wrong
    return x, a, torch.where(hit, 10 * torch.randn(700, generator=rng, dtype=torch.float64), y)


def test_recovers_a_matrix_of_any_shape() -> None:
    x, a, y = oblong()
    found = SubGM(symmetric=False).recover(a, y)
    assert error(found.x, x) < 1e-4
    assert (found.rank, found.factor.shape, found.right.shape) == (2, (12, 8), (8, 8))
    assert torch.allclose(found.factor @ found.right.T, found.x)
    assert error(SubGM(symmetric=False, alpha=1.0).recover(a, y).x, x) > 100 * error(found.x, x)


def test_an_indefinite_matrix_needs_two_factors() -> None:
    _, a, _ = problem(m=700)
    x = torch.diag(torch.tensor([1.0, -1.0] + 8 * [0.0], dtype=torch.float64))
    y = a.of(x)
    y[:200] = 10 * torch.randn(200, generator=seeded(5), dtype=torch.float64)
    assert error(SubGM(symmetric=False).recover(a, y).x, x) < 1e-4
    assert error(SubGM().recover(a, y).x, x) > 0.5


def test_both_steps_are_twice_the_subgradients() -> None:
    _, a, y = oblong()
    rule = {"symmetric": False, "alpha": 0.5, "step": "constant", "eta": 0.01}
    # in units of the median, as `recover` computes
    scale = y.abs().median().sqrt()
    before, after = (SubGM(**rule, steps=n).recover(a, y) for n in (3, 4))
    u, v = ((w / scale).requires_grad_() for w in (before.factor, before.right))
    (a.of(u @ v.T) - y / scale**2).abs().mean().backward()
    for w, found in ((u, after.factor), (v, after.right)):
        torch.testing.assert_close((w - 0.01 * 2 * w.grad).detach(), found / scale)


def test_two_factors_of_a_semidefinite_matrix_move_as_one() -> None:
    x, draws, _ = problem()
    a = Dense((draws.matrices + draws.matrices.mT) / 2)
    y = a.of(x)
    one, two = (SubGM(rank=2, symmetric=s, steps=50).recover(a, y) for s in (True, False))
    torch.testing.assert_close(one.x, two.x, rtol=1e-9, atol=1e-15)


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
    with pytest.raises(InputError, match="12 x 8. Set symmetric=False"):
        SubGM().recover(*oblong()[1:])
