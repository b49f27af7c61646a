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
    # the largest gap is the second; what lies below 1e-12 of the first counts as that
    values = torch.tensor([1.0, 1e-2, 1e-9, 1e-25], dtype=torch.float64)
    assert spectral_rank(torch.diag(values)) == 2
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


def taken(**rule) -> tuple[list[torch.Tensor], int]:
    """Factors after each step, by asking for one step more each time; and how many steps are taken in the end."""
    _, a, y = problem(d=4, r=1, m=60)
    most = rule.pop("steps")
    scale = y.abs().median().sqrt()
    return [SubGM(**rule, steps=n).recover(a, y).factor / scale for n in range(1, most + 1)], SubGM(
        **rule, steps=most
    ).recover(a, y).steps


def stepped(sizes, alpha: float = 1e-2) -> list[torch.Tensor]:
    """The same by the equation, the step's size told by (t, loss)."""
    _, a, y = problem(d=4, r=1, m=60)
    y = y / y.abs().median()
    c = (a.matrices * y.sign()[:, None, None]).mean(0)
    values, vectors = torch.linalg.eigh((c + c.T) / 2)
    u = alpha * vectors * values.clamp(min=0).sqrt()
    found = []
    for t, eta in enumerate(sizes):
        residual = torch.stack([(m * (u @ u.T)).sum() for m in a.matrices]) - y
        step = eta if isinstance(eta, float) else eta(t, float(residual.abs().mean()))
        slope = 2 * (a.matrices * residual.sign()[:, None, None]).mean(0)
        u = u - step * (slope + slope.T) / 2 @ u
        found.append(u)
    return found


@pytest.mark.parametrize(
    ("rule", "sizes"),
    [
        ({"step": "constant"}, [0.2] * 6),
        ({"step": "geometric", "decay": 0.5}, [0.2 * 0.5**t for t in range(6)]),
        ({"step": "polyak"}, [lambda t, loss: 0.2 * loss] * 6),
    ],
    ids=["constant", "geometric", "polyak"],
)
def test_the_steps_by_each_rule(rule, sizes) -> None:
    found, steps = taken(alpha=1e-2, eta=0.2, steps=6, **rule)
    assert steps == 6
    for got, expected in zip(found, stepped(sizes), strict=True):
        # a factor is known up to the signs of its columns
        torch.testing.assert_close(got @ got.T, expected @ expected.T, rtol=1e-9, atol=1e-12)


def test_the_plateau_is_a_share_of_the_steps() -> None:
    _, a, y = problem(d=4, r=1, m=60)
    rule = {"alpha": 1e-2, "eta": 0.2, "decay": 0.5}
    found = SubGM(**rule, plateau=0.5, steps=8).recover(a, y).factor / y.abs().median().sqrt()
    # the step first falls after the fifth, t = 4: sizes 0.2 five times, then 0.1, 0.05 and 0.025
    expected = stepped([0.2] * 5 + [0.1, 0.05, 0.025])[-1]
    torch.testing.assert_close(found @ found.T, expected @ expected.T, rtol=1e-9, atol=1e-12)


def test_stops_once_the_step_is_below_its_tolerance() -> None:
    _, a, y = problem(d=4, r=1, m=60)
    rule = {"alpha": 1e-2, "decay": 0.5, "steps": 50}
    # 0.5^7 is below 0.01, 0.5^6 is not
    assert SubGM(**rule, tolerance=0.01).recover(a, y).steps == 7
    assert SubGM(**rule, tolerance=0.0).recover(a, y).steps == 50


@pytest.mark.parametrize("symmetric", [True, False])
def test_the_start_keeps_the_largest_directions(symmetric: bool) -> None:
    c = torch.diag(torch.tensor([4.0, 9.0, 1.0, -16.0], dtype=torch.float64))
    u, v = SubGM(rank=2, alpha=0.1, symmetric=symmetric)._start(c)
    assert u.shape == v.shape == (4, 2)
    kept = torch.diag(
        torch.tensor([4.0, 9.0, 0, 0] if symmetric else [0, 9.0, 0, -16.0], dtype=torch.float64)
    )
    torch.testing.assert_close(u @ v.T, 0.01 * kept)
    assert SubGM(alpha=0.1, symmetric=symmetric)._start(c)[0].shape == (4, 4)


def test_measures_what_is_left_in_the_measurements_unit() -> None:
    x, a, y = problem(d=4, r=1, m=60)
    found = SubGM(steps=30, alpha=1e-2).recover(a, 1000 * y)
    left = torch.stack([(m * found.x).sum() for m in a.matrices]) - 1000 * y
    assert found.residual == pytest.approx(float(left.abs().mean()), rel=1e-12)


def test_measurements_that_are_mostly_zero_are_scaled_by_their_mean() -> None:
    x = torch.zeros(3, 3, dtype=torch.float64)
    x[0, 0] = 5.0
    rows, columns = (t.flatten() for t in torch.meshgrid(torch.arange(3), torch.arange(3), indexing="ij"))
    found = SubGM(step="constant", eta=0.3, alpha=1e-3, steps=1).recover(
        Entries(rows, columns, (3, 3)), x.flatten()
    )
    # U = alpha sqrt(1/9) e_1 grows by 1 + eta 2/9; the unit is the mean, 5/9, as the median is 0
    expected = torch.zeros(3, 3, dtype=torch.float64)
    expected[0, 0] = 5 / 9 * 1e-6 / 9 * (1 + 0.3 * 2 / 9) ** 2
    torch.testing.assert_close(found.x, expected, rtol=1e-9, atol=1e-20)


@pytest.mark.parametrize("setting", [{"decay": 0.5}, {"plateau": 0.5}, {"tolerance": 0.1}])
@pytest.mark.parametrize("step", ["polyak", "constant"])
def test_settings_of_the_geometric_rule_are_refused_with_another(step: str, setting) -> None:
    with pytest.raises(
        InputError, match=f"SubGM.{next(iter(setting))} is of the geometric rule.*step='{step}'"
    ):
        SubGM(step=step, **setting)


def test_refuses_measurements_of_another_form() -> None:
    with pytest.raises(InputError, match=r"Dense.matrices must be \[m, d1, d2\]; got \[3, 4\]"):
        Dense(torch.zeros(3, 4))
    with pytest.raises(InputError, match=r"Entries.rows and columns must be \[m\] both; got \[3\] and \[2\]"):
        Entries(torch.arange(3), torch.arange(2), (3, 3))
    with pytest.raises(InputError, match="Entries.shape must be"):
        Entries(torch.arange(3), torch.arange(3), (3, 0))
