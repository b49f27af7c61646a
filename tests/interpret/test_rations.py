from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unweave import seeded
from unweave.errors import InputError
from unweave.interpret.rations import Zipf, fit_zipf, per_batch, per_column, per_row, ranks_of, rationed


@given(st.integers(1, 9), st.integers(1, 7), st.integers(0, 1000))
@settings(deadline=None, max_examples=40)
def test_rations_equal_slow_sorting(b: int, n: int, seed: int) -> None:
    scores = torch.randn(b, n, generator=seeded(seed), dtype=torch.float64)
    k = 1 + seed % n
    for row, kept in zip(scores.tolist(), per_row(scores, k).tolist(), strict=True):
        assert sorted(v for v, yes in zip(row, kept, strict=True) if yes) == sorted(row)[n - k :]
    budget = k * b
    flat = scores.flatten().tolist()
    assert sorted(scores[per_batch(scores, budget)].tolist()) == sorted(flat)[len(flat) - budget :]
    ration = torch.randint(0, b + 3, (n,), generator=seeded(seed))
    kept = per_column(scores, ration)
    for j in range(n):
        m = min(int(ration[j]), b)
        assert sorted(scores[kept[:, j], j].tolist()) == sorted(scores[:, j].tolist())[b - m :]


def test_a_token_ration_is_a_batch_ration_of_one() -> None:
    scores = torch.randn(1, 12, generator=seeded(0))
    assert torch.equal(per_row(scores, 5), per_batch(scores, 5))


def test_rationed_by_hand() -> None:
    # 10 codes for shares 6 : 3 : 1 with one each: 7 left over give 4.2, 2.1, 0.7; the last remainder is the largest
    assert rationed(torch.tensor([6.0, 3.0, 1.0]), 10).tolist() == [5, 3, 2]
    assert rationed(torch.tensor([6.0, 3.0, 1.0]), 10, least=0).tolist() == [6, 3, 1]
    with pytest.raises(InputError, match="2 active codes a batch cannot give each of 3 latents 1"):
        rationed(torch.ones(3), 2)


@given(st.lists(st.floats(0.001, 100), min_size=1, max_size=30), st.integers(0, 200))
@settings(deadline=None, max_examples=60)
def test_rationed_spends_the_budget_and_keeps_the_order(shares: list[float], more: int) -> None:
    parts = rationed(torch.tensor(shares), len(shares) + more)
    assert int(parts.sum()) == len(shares) + more
    assert int(parts.min()) >= 1
    largest_first = parts[torch.tensor(shares).argsort(descending=True)]
    assert (largest_first.diff() <= 1).all()


def test_the_law_that_densities_follow_is_found() -> None:
    law = Zipf(0.7, 3.0, 1.3)
    densities = law.at(torch.arange(1, 201))[torch.randperm(200, generator=seeded(0))]
    found = fit_zipf(densities)
    assert (found.a, found.b, found.s) == pytest.approx((0.7, 3.0, 1.3), rel=1e-3)
    tail = densities.clone()
    tail[ranks_of(densities) > 185] = 1e-9  # the low end is not looked at
    assert fit_zipf(tail).s == pytest.approx(1.3, rel=1e-3)
    with pytest.raises(InputError, match="three latents that are ever active; there are 2"):
        fit_zipf(torch.tensor([0.5, 0.1, 0.0, 0.0]))


def test_ranks_are_by_density_then_by_position() -> None:
    assert ranks_of(torch.tensor([0.2, 0.5, 0.2, 0.0])).tolist() == [2, 1, 3, 4]
