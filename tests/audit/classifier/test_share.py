"""The share of a request that is still known: likelihood, mixture, interval."""

from __future__ import annotations

from math import log, pi, sqrt

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import minimize_scalar

from tests.audit.classifier.made import RULER, N, vectors
from unweave.audit.classifier.share import Ratios, mixture, still_known


def normal(x: float, mean: float, variance: float) -> float:
    return -((x - mean) ** 2) / (2 * variance) - log(2 * pi * variance) / 2


def test_ratios_equal_two_normal_densities_with_shrunk_variances() -> None:
    draw = np.random.default_rng(0)
    held, never = draw.normal(3, 1, (4, 6)), draw.normal(0, 1, (5, 6))
    found = Ratios.between(held, never).of(np.array([1.0, 1.5, 2.0, 0.5, 99.0, -99.0]))

    def variances(group: np.ndarray) -> list[float]:
        k = len(group)
        squares = [sum((x - group[:, i].mean()) ** 2 for x in group[:, i]) for i in range(6)]
        typical = sum(squares) / 6 / (k - 1)
        return [((s + 8 * typical) / (k - 1 + 8) + 1e-6) * (1 + 1 / k) for s in squares]

    va, vb = variances(held), variances(never)
    for i, x in enumerate([1.0, 1.5, 2.0, 0.5, 99.0, -99.0]):
        a, b = held[:, i].mean(), never[:, i].mean()
        y = min(max(x, min(a, b)), max(a, b))  # beyond either mean counts as that mean
        expected = normal(y, a, va[i]) - normal(y, b, vb[i])
        assert found[i] == pytest.approx(min(6.0, max(-6.0, expected)), rel=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_mixture_maximises_its_likelihood(seed: int) -> None:
    ratios = np.random.default_rng(seed).normal(0, 3, 40)
    best = minimize_scalar(
        lambda p: -np.log(p * np.exp(ratios) + 1 - p).sum(),
        bounds=(0, 1),
        method="bounded",
        options={"xatol": 1e-9},
    )
    assert mixture(ratios) == pytest.approx(best.x, abs=1e-6)


def test_mixture_ends() -> None:
    assert mixture(np.array([-1.0, -2.0])) == 0.0
    assert mixture(np.array([1.0, 2.0])) == 1.0


def test_examples_that_tell_nothing_are_not_asked_unless_hardly_any_does() -> None:
    held = np.array([[5.0, 0, 5, 5], [6.0, 1, 6, 6]])
    never = np.array([[0.0, 0, 0, 0], [1.0, 1, 1, 1]])
    assert Ratios.between(held, never).telling.tolist() == [True, False, True, True]
    assert Ratios.between(held[:, :3], never[:, :3]).telling.tolist() == [True, True, True]


@pytest.mark.parametrize("kept", [0.1, 0.3])
def test_share_of_a_request_that_stayed_is_found(kept: float) -> None:
    found = RULER.read(vectors(20, member=kept, seed=5))
    # by ratios and by the mean, both about right on average
    assert found.share.mean() == pytest.approx(kept, abs=0.06)
    assert 1 - found.kept.mean() == pytest.approx(kept, abs=0.03)


def test_interval_adds_up_both_spreads_and_the_chance_of_which_stayed() -> None:
    holders, oracles = np.array([0.1, -0.1, 0.0, 0.0]), np.array([0.9, 1.1, 1.0])
    share, (low, high) = still_known(0.75, holders, oracles, 50.0)
    q = 0.25
    spread = sqrt((1 - q) * np.var(oracles, ddof=1) + q * np.var(holders, ddof=1) + q * (1 - q) / 50)
    half = stats.t.ppf(0.975, 2) * spread
    assert (share, low, high) == pytest.approx((0.25, max(0, 0.25 - half), min(1, 0.25 + half)))
    assert still_known(1.2, holders, oracles, 50.0)[1][0] == 0.0


def test_interval_covers_the_truth() -> None:
    held, never = (places.kept for places in RULER.references)
    inside = 0
    for position in RULER.read(vectors(40, member=0.3, seed=8)).kept:
        low, high = still_known(float(position), held, never, RULER.effective)[1]
        inside += low <= 0.3 <= high
    assert inside >= 36
    assert RULER.effective <= N
