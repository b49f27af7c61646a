from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from claims.effects import STATUSES, Effect, Finding, status, within
from unweave.errors import InputError


def rows(**figures: list[float]) -> list[dict[str, float]]:
    return [dict(zip(figures, values, strict=True)) for values in zip(*figures.values(), strict=True)]


def gain(*differences: float, **effect: object) -> Finding:
    """An effect whose differences are these."""
    return Effect("a over b", better="a", worse="b", **effect).on(
        rows(a=list(differences), b=[0.0] * len(differences))
    )


@pytest.mark.parametrize("n", [3, 5, 8])
@pytest.mark.parametrize("higher", [True, False])
def test_interval_is_that_of_the_paired_t_test(n, higher) -> None:
    rng = np.random.default_rng(n)
    a = rng.normal(80, 3, n)
    b = a - rng.normal(1, 2, n)
    found = Effect("a over b", better="a", worse="b", higher=higher).on(rows(a=a.tolist(), b=b.tolist()))
    test = stats.ttest_rel(a, b) if higher else stats.ttest_rel(b, a)
    wanted = test.confidence_interval(0.95)
    assert found.interval == pytest.approx((wanted.low, wanted.high), rel=1e-12)
    assert found.mean == pytest.approx((a - b).mean() * (1 if higher else -1), rel=1e-12)
    assert found.differences == pytest.approx((a - b) * (1 if higher else -1))


def test_interval_by_hand() -> None:
    # 1, 2, 3: mean 2, sd 1; t(0.975, 2) = 4.302653, so 2 -+ 4.302653 / sqrt(3)
    assert gain(1, 2, 3).interval == pytest.approx((-0.484138, 4.484138), abs=1e-6)


@pytest.mark.parametrize(
    ("differences", "margin", "wanted"),
    [
        ((1, 2, 3), 0.0, "not shown"),  # -0.48 to 4.48
        ((1, 2, 3), -0.5, "holds"),
        ((1, 2, 3), -0.48, "not shown"),
        ((1, 2, 3), 4.4, "not shown"),
        ((1, 2, 3), 4.5, "contradicted"),
        ((-1, -2, -3), 0.0, "not shown"),
        ((-11, -12, -13), 0.0, "contradicted"),
        ((11, 12, 13), 0.0, "holds"),
        ((11, 12, 13), 20.0, "contradicted"),  # the paper's direction, but surely less than was asked
    ],
)
def test_status_is_where_the_interval_lies(differences, margin, wanted) -> None:
    assert gain(*differences, margin=margin).status == wanted


def test_a_margin_may_be_a_figure_and_stands_for_its_mean() -> None:
    measured = rows(a=[11.0, 12.0, 13.0], b=[0.0, 0.0, 0.0], floor=[8.0, 9.0, 10.0])
    effect = Effect("a over b", better="a", worse="b", margin="floor", floor="floor")
    found = effect.on(measured)
    assert found.margin == found.floor == 9.0
    assert found.status == "holds"  # from 9.516 on
    wider = [{**row, "floor": row["floor"] + 0.6} for row in measured]
    assert effect.on(wider).status == "not shown"


def test_a_number_is_a_bar() -> None:
    measured = rows(forgotten=[4.0, 5.0, 6.0])  # 20 - F: 14, 15, 16, interval 12.5 to 17.5
    for bar, wanted in ((20.0, "holds"), (5.0, "not shown"), (2.0, "contradicted")):
        found = Effect("F at most", better="forgotten", worse=bar, higher=False).on(measured)
        assert found.is_bar
        assert found.mean == bar - 5
        assert found.status == wanted


def test_a_side_may_be_computed_from_a_seeds_figures() -> None:
    measured = rows(a=[1.0, 2.0, 3.0], b=[10.0, 14.0, 18.0])
    found = Effect("a at most a fifth of b", better="a", worse=lambda row: row["b"] / 5, higher=False).on(
        measured
    )
    assert found.differences == pytest.approx((1.0, 0.8, 0.6))


@pytest.mark.parametrize(("higher", "wanted"), [(True, (7.0, 8.0, 9.0)), (False, (-9.0, -8.0, -7.0))])
def test_of_several_settings_the_best_by_its_mean_counts(higher, wanted) -> None:
    # "high" has the higher mean, though "low" is above it at the first seed
    measured = rows(a=[10.0, 10.0, 10.0], low=[4.0, 0.0, 0.0], high=[3.0, 2.0, 1.0], worst=[19.0, 18.0, 17.0])
    rivals = ("low", "high") if higher else ("worst",)
    found = Effect("a over the best", better="a", worse=rivals, higher=higher).on(measured)
    assert found.differences == (wanted if higher else (9.0, 8.0, 7.0))
    either = Effect("the best over 0", better=("low", "high"), worse=0.0, higher=higher).on(measured)
    assert either.differences == ((3.0, 2.0, 1.0) if higher else (-4.0, 0.0, 0.0))


@pytest.mark.parametrize(
    ("value", "margin", "wanted"), [(2.0, 1.0, "holds"), (0.5, 1.0, "contradicted"), (1.0, 1.0, "not shown")]
)
def test_without_spread_the_interval_is_one_value(value, margin, wanted) -> None:
    found = gain(value, value, value, margin=margin)
    assert found.interval == (value, value)
    assert found.status == wanted


def test_without_spread_a_bar_that_is_met_exactly_holds() -> None:
    full = rows(error=[100.0, 100.0, 100.0])
    assert Effect("error is 100 %", better="error", worse=100.0).on(full).status == "holds"
    assert Effect("error is 0 %", better="error", worse=0.0, higher=False).on(full).status == "contradicted"


def test_rounding_is_no_spread() -> None:
    assert gain(0.1, 0.1, 0.1).interval == (0.1, 0.1)
    assert gain(0.1, 0.1, 0.1, margin=0.1).status == "not shown"


def test_every_asks_each_seed_too() -> None:
    seeds = (-0.1, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0)
    assert gain(*seeds).interval[0] > 0
    assert gain(*seeds).status == "holds"
    assert gain(*seeds, every=True).status == "not shown"
    assert gain(*(0.1, *seeds[1:]), every=True).status == "holds"
    assert gain(*(-s for s in seeds), every=True).status == "contradicted"


def test_within_asks_both_sides() -> None:
    def judged(*differences: float) -> list[str]:
        measured = rows(a=list(differences), b=[0.0] * len(differences))
        return [effect.on(measured).status for effect in within("a", "b", 1.0, "alike")]

    assert judged(-0.1, 0.0, 0.1) == ["holds", "holds"]
    assert judged(1.9, 2.0, 2.1) == ["holds", "contradicted"]
    assert judged(-1.9, -2.0, -2.1) == ["contradicted", "holds"]
    assert judged(-1.0, 0.0, 1.0) == ["not shown", "not shown"]


def test_a_missing_figure_is_refused() -> None:
    measured = rows(a=[1.0, 2.0, 3.0], b=[0.0, 0.0, 0.0])
    message = r"effect 'a over c' names the figure 'c', which was not measured\. There are: a, b\."
    for more in ({"worse": "c"}, {"worse": ("b", "c")}, {"worse": lambda row: row["c"]}, {"worse": "b", "floor": "c"},
                 {"worse": "b", "margin": "c"}):  # fmt: skip
        with pytest.raises(InputError, match=message):
            Effect("a over c", better="a", **more).on(measured)


def test_two_seeds_are_refused() -> None:
    with pytest.raises(InputError, match=r"at least 3 seeds; got 2"):
        gain(1.0, 2.0)


def test_status_of_a_claim_is_that_of_its_headlines() -> None:
    holds, open_, against = gain(11, 12, 13), gain(1, 2, 3), gain(-11, -12, -13)
    beside = gain(-11, -12, -13, headline=False)
    assert [f.status for f in (holds, open_, against)] == ["holds", "not shown", "contradicted"]
    assert status([holds, beside]) == "holds"
    assert status([holds, open_, beside]) == "not shown"
    assert status([holds, open_, against]) == "contradicted"
    assert status([]) == "not run"
    assert set(STATUSES) == {"holds", "not shown", "contradicted", "not run"}


def test_coverage_of_the_interval() -> None:
    # a t interval of 3 seeds misses the truth in 5 % of all samples; 4,000 samples: standard error 0.34 %
    rng = np.random.default_rng(0)
    missed = sum(
        not f.interval[0] <= 1.0 <= f.interval[1] for f in (gain(*rng.normal(1, 2, 3)) for _ in range(4000))
    )
    assert abs(missed / 4000 - 0.05) < 4 * math.sqrt(0.05 * 0.95 / 4000)
