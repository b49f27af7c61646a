"""How many models would decide: the formula, by brute force."""

from __future__ import annotations

from math import sqrt

import pytest
from scipy import stats

from unweave.audit.classifier.power import Need, decides, forecast, foreseen, needed


@pytest.mark.parametrize("spread", [0.02, 0.1, 0.15, 0.3, 0.4, 0.6])
@pytest.mark.parametrize("held", [0.02, 0.3])
def test_the_fewest_that_decide(spread: float, held: float) -> None:
    def works(r: int, k: int) -> bool:
        a, b = stats.t.ppf(0.99, r - 1) * spread, stats.t.ppf(0.975, r - 1) * held
        wide = sqrt(1 / k + 1 / r)
        return (a + b) * wide < 1 and a * wide < 0.5

    found = needed(spread, held)
    singles = [r for r in range(4, 33) if works(r, 1)]
    several = [k for k in range(2, 13) if works(16, k)]
    expected = Need(singles[0]) if singles else Need(16, several[0]) if several else None
    assert found == expected


def test_requests_of_a_few_examples_need_several_edits() -> None:
    # one example of Fashion-MNIST scatters by 0.40, five by 0.30: single edits are never decided
    assert needed(0.4, 0.4) == Need(16, 6)
    assert needed(0.3, 0.3) == Need(16, 3)
    assert needed(2.0, 2.0) is None


def test_a_margin_is_advised() -> None:
    assert Need(7).advised == Need(11)
    assert Need(16, 6).advised == Need(16, 8)
    assert "--oracles 16 --holders 16 --edits 6" in Need(16, 6).words
    assert "--edits" not in Need(8).words


def test_fewer_than_four_never_decide() -> None:
    assert not decides(Need(3), 0.001, 0.001)
    assert decides(Need(4), 0.001, 0.001)


def test_foreseen_spread_falls_with_the_request() -> None:
    spreads = [foreseen(n) for n in (1, 3, 5, 20, 100, 240, 5000)]
    assert spreads == sorted(spreads, reverse=True)
    assert (foreseen(1), foreseen(240), foreseen(5000)) == pytest.approx((0.4, 0.105, 0.105))


def test_a_forecast_before_any_training() -> None:
    assert forecast(240, 8, 9, 1, whole=False) == ""
    assert forecast(1, 8, 9, 1, whole=True) == ""  # a class is seen sooner
    few = forecast(240, 3, 9, 1, whole=False)
    assert "decide nothing: it takes at least 4 of each" in few
    assert "--oracles 8 --holders 8" in few
    one = forecast(1, 8, 9, 1, whole=False)
    assert "1 scattered example can hardly be judged with 8 references" in one
    assert "--oracles 16 --holders 16 --edits 8" in one
    assert "39 trainings in all" in one
    assert forecast(1, 16, 16, 6, whole=False) == ""
    assert "at least 9 of each" in forecast(1, 8, 8, 6, whole=False)
