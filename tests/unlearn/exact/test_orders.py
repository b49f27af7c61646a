"""Orders of slices, and deletions until a service fails: against closed forms, a slow simulation and the card's counts."""

from __future__ import annotations

from itertools import permutations
from math import factorial

import pytest
import torch

from unweave import seeded
from unweave.errors import InputError
from unweave.unlearn.exact.orders import score, sequences, simulate, until_dead


def harmonic(n: int) -> float:
    return sum(1 / i for i in range(1, n + 1))


def test_rotations_lead_with_every_slice_once() -> None:
    assert sequences(4, 4) == ((0, 1, 2, 3), (1, 2, 3, 0), (2, 3, 0, 1), (3, 0, 1, 2))
    assert sequences(4, 2) == sequences(4, 4)[:2]
    assert sequences(1, 1) == ((0,),)


@pytest.mark.parametrize(("slices", "budget"), [(3, 4), (3, 6), (4, 5), (4, 11), (4, 24), (5, 37)])
def test_more_orders_than_slices_are_spread_evenly_over_beginnings(slices: int, budget: int) -> None:
    found = sequences(slices, budget)
    assert len(set(found)) == len(found) == budget
    assert all(sorted(order) == list(range(slices)) for order in found)
    for k in (1, 2):
        begun = [order[:k] for order in found]
        counts = {b: begun.count(b) for b in begun}
        if k == 1:
            assert len(counts) == slices
            assert max(counts.values()) - min(counts.values()) <= 1
    if budget == factorial(slices):
        assert set(found) == set(permutations(range(slices)))


def test_the_score_by_hand() -> None:
    # 1 * (1 - 0.1)^2 + 2 * (1 - 0.1 - 0.3)^2 + 3 * 0^2
    assert score((1, 2, 0), (0.6, 0.1, 0.3), expected=2) == pytest.approx(0.81 + 2 * 0.36)
    assert score((1,), (0.6, 0.1, 0.3), expected=2) == pytest.approx(0.81)


def test_matching_is_the_best_assignment_at_every_level() -> None:
    p = (0.3, 0.02, 0.11, 0.05)
    orders = [(s,) for s in range(4)]
    for _ in range(3):  # every way to give each order another slice, tried
        ways = [
            way for way in permutations(range(4)) if all(s not in o for o, s in zip(orders, way, strict=True))
        ]
        best = max(ways, key=lambda way: sum(score((*o, s), p) for o, s in zip(orders, way, strict=True)))
        orders = [(*o, s) for o, s in zip(orders, best, strict=True)]
    found = sequences(4, 4, p, "matching")
    total = sum(score(order, p) for order in orders)
    assert sum(score(order, p) for order in found) == pytest.approx(total, rel=1e-12)
    assert {order[0] for order in found} == set(range(4))
    assert [score(order, p) for order in found] == sorted((score(o, p) for o in found), reverse=True)


def test_few_matched_orders_begin_where_deletions_are_least_likely() -> None:
    assert {order[0] for order in sequences(5, 2, (0.3, 0.02, 0.3, 0.01, 0.3), "matching")} == {1, 3}


def test_matching_outlives_rotation_where_deletions_are_uneven() -> None:
    p = (0.3, 0.3, 0.2, 0.1, 0.06, 0.04)
    told = {
        how: simulate(3, 6, 2, trials=300, rng=seeded(0), prior=p, selector=how).double() for how in ("cyclic", "matching")
    }  # fmt: skip
    error = (told["cyclic"].var() / 300 + told["matching"].var() / 300).sqrt()
    assert float(told["matching"].mean() - told["cyclic"].mean()) > 5 * float(error)


def test_sampling_draws_likely_deletions_late() -> None:
    found = sequences(4, 12, (0.97, 0.01, 0.01, 0.01), "sampling", seeded(0))
    assert len(set(found)) == 12
    assert found == sequences(4, 12, (0.97, 0.01, 0.01, 0.01), "sampling", seeded(0))
    assert found != sequences(4, 12, (0.97, 0.01, 0.01, 0.01), "sampling", seeded(1))
    first = sequences(4, 4, (0.97, 0.01, 0.01, 0.01), "sampling", seeded(0))
    assert all(order[-1] == 0 for order in first)


CARD = {
    (5, 6): {1: 65.4, 2: 86.1, 3: 100.8, 4: 109.0, 6: 121.5},
    (5, 4): {1: 46.1, 2: 57.5, 3: 67.2, 4: 73.2},
    (3, 8): {1: 44.6, 8: 91.4},
}
"""(shards, slices) -> budget -> mean deletions to failure of 400 trials, measured elsewhere."""
CASES = [(m, n, b, told) for (m, n), row in CARD.items() for b, told in row.items()]


@pytest.mark.parametrize(("shards", "slices", "budget", "told"), CASES)
def test_deletions_to_failure_are_those_known(shards: int, slices: int, budget: int, told: float) -> None:
    """All m B leading slices must be hit: a coupon collector of m B among m L coupons, so m L H(m B)."""
    exact = shards * slices * harmonic(shards * budget)
    assert exact == pytest.approx(told, rel=0.05)
    found = simulate(shards, slices, budget, trials=1000, rng=seeded(0)).double()
    error = float(found.std()) / 1000**0.5
    assert abs(float(found.mean()) - exact) < 4 * error
    assert float(found.mean()) == pytest.approx(exact, rel=0.05)


def test_a_simulated_service_is_run_down_slice_by_slice() -> None:
    """Against the slow way: every order of every shard is cut at each deletion."""
    shards, slices, budget, rng = 2, 4, 7, seeded(5)
    orders = sequences(slices, budget)
    counts = []
    for _ in range(400):
        lengths = {(k, o): slices for k in range(shards) for o in orders}
        count = 0
        while any(lengths.values()):
            k, s = divmod(int(torch.randint(shards * slices, (), generator=rng)), slices)
            count += 1
            for o in orders:
                lengths[k, o] = min(lengths[k, o], o.index(s))
        counts.append(count)
    slow = torch.tensor(counts).double()
    fast = simulate(shards, slices, budget, trials=400, rng=seeded(6)).double()
    error = float((slow.var() / 400 + fast.var() / 400).sqrt())
    assert abs(float(slow.mean() - fast.mean())) < 4 * error


def test_requests_until_dead_draw_each_example_once() -> None:
    assert until_dead([1, 1], [True, True], trials=5, rng=seeded(0)).tolist() == [2] * 5
    assert until_dead([3, 2], [False, False], trials=2, rng=seeded(0)).tolist() == [0, 0]
    found = until_dead([1, 9], [True, False], trials=4000, rng=seeded(0)).double()
    assert float(found.mean()) == pytest.approx(5.5, abs=0.2)  # the place of one card among ten
    assert found.min() == 1
    assert found.max() == 10


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: sequences(0, 1), "slices must be at least 1"),
        (lambda: sequences(3, 7), "budget must be from 1 to 6, for 3 slices have 6 different orders; got 7"),
        (lambda: sequences(3, 4, (0.1,) * 3, "matching"), "budget must be from 1 to 3"),
        (lambda: sequences(3, 2, (0.1,) * 3), "prior would do nothing"),
        (lambda: sequences(3, 2, (0.1,) * 2, "matching"), "prior must be 3 probabilities"),
        (lambda: sequences(3, 2, (0.9, 0.9, 0.0), "matching"), "sum to at most 1"),
        (lambda: sequences(3, 2, selector="best"), 'selector must be "cyclic"'),  # type: ignore[arg-type]
        (lambda: sequences(3, 2, selector="sampling"), "rng must be a torch.Generator"),
    ],
)
def test_bad_arguments_are_named(call, told: str) -> None:
    with pytest.raises(InputError, match=told):
        call()
