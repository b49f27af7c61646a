"""The relative verdict on made-up confidences, where the truth is known."""

from __future__ import annotations

from math import log
from statistics import fmean, pvariance

import numpy as np
import pytest
from scipy.stats import ks_2samp

from unweave.audit.classifier.ruler import Ruler, Sample
from unweave.audit.classifier.verdict import Decision, decide, rates_of
from unweave.statistics import prediction

N, CONTROL = 300, 1000
HARD, EASY = (np.random.default_rng(seed).normal(4, 3, size) for seed, size in ((0, N), (1, CONTROL)))


def sample(
    models: int,
    *,
    member: float,
    seed: int,
    gap: float = 1.5,
    shift: float = 0.0,
    stretch: float = 1.0,
    wide: float = 1.0,
) -> Sample:
    """Models whose phi on a forget example is its difficulty, plus `gap` where it was trained on, plus noise."""
    draw = np.random.default_rng(1000 + seed)
    trained = np.arange(N) < member * N
    forget = wide * HARD + gap * trained + draw.normal(0, 1, (models, N)) + draw.normal(0, 0.03, (models, 1))
    rest = wide * EASY + draw.normal(0, 1, (models, CONTROL))
    utility = np.stack([np.full(models, 100.0), 85 + draw.normal(0, 0.5, models)], 1)
    return Sample.of(shift + stretch * forget, shift + stretch * rest, utility, 10)


RULER = Ruler(sample(8, member=1, seed=1), sample(8, member=0, seed=2))


def outcomes(group: Sample, ruler: Ruler = RULER) -> list[str]:
    return [decide(ruler, group.only(i)).verdict.outcome for i in range(len(group))]


def test_exact_position_without_noise() -> None:
    # one example: held phi 3, oracles 1, no spread; matching leaves phi alone as all controls agree
    control = np.tile([0.0, 1.0, 2.0, 3.0], (2, 1))
    make = lambda phi: Sample.of(np.full((2, 1), phi), control, np.full((2, 2), 90.0), 10)  # noqa: E731
    ruler = Ruler(make(3.0), make(1.0))
    for phi, expected in ((3.0, 0.0), (2.0, 0.5), (1.0, 1.0), (1.5, 0.75)):
        assert ruler.read(make(phi).only(0)).kept == pytest.approx(expected)


def naive_raw(holders: Sample, oracles: Sample, model: Sample) -> tuple[float, float, float]:
    """Position by the cut and the uncut sum, and distance, example by example as the module's first lines say."""
    places = [*holders.place, *oracles.place]
    location, scale = (fmean(p[k] for p in places) for k in (0, 1))

    def matched(models: Sample) -> list[list[float]]:
        return [
            [max(models.floor, location + (x - p[0]) * min(4.0, max(0.25, scale / p[1]))) for x in phi]
            for phi, p in zip(models.forget, models.place, strict=True)
        ]

    h, o, (phi,) = matched(holders), matched(oracles), matched(model)
    n, df = len(phi), len(h) + len(o) - 2
    a, b = [[fmean(m[i] for m in group) for i in range(n)] for group in (h, o)]
    squares = [sum((m[i] - a[i]) ** 2 for m in h) + sum((m[i] - b[i]) ** 2 for m in o) for i in range(n)]
    # eight degrees of freedom of the average example's variance
    variance = [(s + 8 * fmean(squares) / df) / (df + 8) + 1e-6 for s in squares]
    d, noise = [x - y for x, y in zip(a, b, strict=True)], [v * (1 / len(h) + 1 / len(o)) for v in variance]
    signal = max(pvariance(d) - fmean(noise), 0.0)
    shrunk = [fmean(d) + signal / (signal + e) * (x - fmean(d)) for x, e in zip(d, noise, strict=True)]
    sd = [v**0.5 for v in variance]

    def position(far: bool) -> float:
        def total(x: list[float]) -> float:
            found = 0.0
            for i in range(n):
                reach = abs(a[i] - b[i]) / 2 / sd[i] + 1
                reach = max(20.0, reach) if far else reach
                found += shrunk[i] / sd[i] * min(reach, max(-reach, (x[i] - (a[i] + b[i]) / 2) / sd[i]))
            return found

        return (total(a) - total(phi)) / (total(a) - total(b))

    distance = fmean(min(5.0, max(-5.0, (x - y) / s)) ** 2 for x, y, s in zip(phi, b, sd, strict=True))
    return position(False), position(True), distance


@pytest.mark.parametrize("seed", range(4))
def test_reading_equals_the_slow_one(seed: int) -> None:
    draw = np.random.default_rng(seed)
    hard, scale = draw.normal(0, 2, 7), draw.uniform(0.3, 3, 9)

    def models(k: int, gap: float) -> Sample:
        forget = hard + gap * draw.uniform(0, 2, 7) + draw.normal(0, 0.7, (k, 7))
        return Sample.of(
            forget * draw.choice(scale, (k, 1)), draw.normal(1, 3, (k, 40)), np.full((k, 2), 90.0), 10
        )

    holders, oracles = models(4, 3.0), models(5, 0.0)
    for edited in (models(1, 0.0), models(1, 3.0), models(1, -9.0)):
        held = [naive_raw(holders.without(i), oracles, holders.only(i)) for i in range(4)]
        never = [naive_raw(holders, oracles.without(i), oracles.only(i)) for i in range(5)]
        start, end = np.mean(held, 0), np.mean(never, 0)
        raw = np.array(naive_raw(holders, oracles, edited))
        found = Ruler(holders, oracles).read(edited)
        assert [found.kept, found.beyond] == pytest.approx((raw - start)[:2] / (end - start)[:2], rel=1e-6)
        assert found.distance == pytest.approx(raw[2], rel=1e-9)


def test_the_floor_is_a_tenth_of_chance() -> None:
    made = Sample.of(np.zeros((1, 1)), np.tile([-50.0, 0.0, 1.0, 2.0, 3.0], (1, 1)), np.zeros((1, 2)), 4)
    assert made.floor == pytest.approx(log(0.025 / 0.975))
    assert made.place[0] == pytest.approx(
        [1.0, 2.0]
    )  # median and quartiles 0, 2; the -50 counts as the floor


def test_accepts_retrained_and_rejects_unedited_models() -> None:
    assert outcomes(sample(40, member=0, seed=3)).count("forgotten") >= 38
    assert outcomes(sample(40, member=1, seed=4)).count("not forgotten") == 40


@pytest.mark.parametrize("kept", [0.3, 0.5, 0.7])
def test_models_that_keep_part_of_the_forget_set_are_not_accepted(kept: float) -> None:
    assert outcomes(sample(20, member=kept, seed=5)).count("forgotten") == 0


def test_forgetting_half_too_much_does_not_pay_for_keeping_the_other_half() -> None:
    held, oracle = sample(10, member=1, seed=6), sample(10, member=0, seed=7)
    mixed = held.forget.copy()
    mixed[:, : N // 2] = 2 * oracle.forget[:, : N // 2] - held.forget[:, : N // 2]
    # the plain mean over the forget set is an oracle's
    assert abs(mixed.mean() - oracle.forget.mean()) < 0.1
    assert "forgotten" not in outcomes(Sample(mixed, held.place, held.utility, held.floor))


@pytest.mark.parametrize(("uneven", "outcome"), [(0.8, "forgotten"), (1.2, "inconclusive")])
def test_alike_on_average_but_not_example_by_example(uneven: float, outcome: str) -> None:
    # every other example is pushed up, the rest down. Oracles lie 1.24 from each other, fresh ones up to 1.24 + 1:
    # at 0.8 these lie 1.7 to 2.2 from them, at 1.2 they lie 2.4 to 3.1
    oracle = sample(10, member=0, seed=30)
    moved = oracle.forget + uneven * np.where(np.arange(N) % 2, 1.0, -1.0) - 0.2
    group = Sample(moved, oracle.place, oracle.utility, oracle.floor)
    assert outcomes(group) == [outcome] * 10
    assert ("not example by example" in RULER.find(group.only(0)).reason) == (outcome == "inconclusive")


def test_oracles_that_differ_too_much_accept_nobody() -> None:
    shifts = np.random.default_rng(0).normal(0, 0.5, (8, 1))
    oracles = RULER.oracles
    wide = Sample(oracles.forget + shifts, oracles.place, oracles.utility, oracles.floor)
    for i in range(3):
        found = Ruler(RULER.holders, wide).find(sample(3, member=0, seed=30).only(i))
        assert (found.outcome, "half-forgotten would pass" in found.reason) == ("inconclusive", True)


def test_a_tenth_of_a_class_remembered_is_not_accepted() -> None:
    far = {"gap": 12.0}
    ruler = Ruler(sample(8, member=1, seed=1, shift=-2, **far), sample(8, member=0, seed=2, shift=-2, **far))
    assert outcomes(sample(20, member=0.12, seed=8, shift=-2, **far), ruler).count("forgotten") == 0
    assert outcomes(sample(20, member=0, seed=9, shift=-2, **far), ruler).count("forgotten") >= 19


@pytest.mark.parametrize(("shift", "stretch"), [(0.0, 0.5), (0.0, 2.0), (-1.5, 1.0), (1.5, 1.0)])
def test_confidence_of_the_whole_model_is_not_forgetting(shift: float, stretch: float) -> None:
    changed = {"shift": shift, "stretch": stretch}
    assert outcomes(sample(10, member=1, seed=10, **changed)) == ["not forgotten"] * 10
    assert outcomes(sample(10, member=0, seed=11, **changed)).count("forgotten") >= 9
    # control: the shift alone would have carried an unedited model to the oracles, or past them
    if (shift, stretch) == (-1.5, 1.0):
        naive = sample(10, member=1, seed=10, **changed).forget.mean()
        assert naive == pytest.approx(RULER.oracles.forget.mean(), abs=0.2)


def test_pushed_far_below_retrained_models_is_over_forgotten() -> None:
    oracle = sample(10, member=0, seed=12)
    pushed = Sample(oracle.forget - 4, oracle.place, oracle.utility, oracle.floor)
    assert outcomes(pushed) == ["over-forgotten"] * 10


def test_probabilities_far_under_chance_are_all_alike() -> None:
    floor = log(0.01 / 0.99)
    shifted = {"gap": 12.0, "shift": -16.0}
    held, oracle = (sample(8, member=m, seed=s, **shifted) for m, s in ((1, 1), (0, 2)))
    ruler = Ruler(held, oracle)
    assert oracle.floor == pytest.approx(floor)
    never = Sample(np.full((1, N), -100.0), oracle.place[:1], oracle.utility[:1], oracle.floor)
    assert decide(ruler, never).verdict.outcome == "forgotten"


def test_lost_utility_is_collapse_unless_models_that_hold_the_data_are_as_low() -> None:
    oracle = sample(4, member=0, seed=13)
    worse = Sample(oracle.forget, oracle.place, oracle.utility - [0.0, 6.0], oracle.floor)
    assert outcomes(worse) == ["collapsed"] * 4
    low_held = Sample(
        RULER.holders.forget, RULER.holders.place, RULER.holders.utility - [0.0, 6.0], RULER.holders.floor
    )
    assert "collapsed" not in outcomes(worse, Ruler(low_held, RULER.oracles))


def test_a_model_that_holds_the_data_is_told_so_before_its_small_losses() -> None:
    held = sample(3, member=1, seed=23)
    less = Sample(held.forget, held.place, held.utility - [0.0, 6.0], held.floor)
    ruined = Sample(held.forget, held.place, held.utility - [0.0, 40.0], held.floor)
    assert outcomes(less) == ["not forgotten"] * 3
    assert "accuracy on held-out examples" in decide(RULER, less.only(0)).verdict.reason
    assert outcomes(ruined) == ["collapsed"] * 3


def test_nothing_to_see_is_inconclusive() -> None:
    same = Ruler(sample(8, member=1, gap=0, seed=1), sample(8, member=0, gap=0, seed=2))
    for member in (0, 1):
        assert set(outcomes(sample(10, member=member, gap=0, seed=14), same)) == {"inconclusive"}


@pytest.mark.parametrize("oracles", [0, 1, 2])
def test_too_few_oracles_accept_nothing_and_say_so(oracles: int) -> None:
    some = sample(2, member=0, seed=2)
    few = Ruler(
        RULER.holders, Sample(some.forget[:oracles], some.place[:oracles], some.utility[:oracles], some.floor)
    )
    for i in range(5):
        verdict = decide(few, sample(5, member=0, seed=15).only(i)).verdict
        assert verdict.outcome == "inconclusive"
        assert any("retrained model" in caveat for caveat in verdict.caveats)


def test_one_oracle_is_enough_to_see_that_the_data_are_there() -> None:
    ruler = Ruler(RULER.holders, sample(1, member=0, seed=2))
    assert outcomes(sample(10, member=1, seed=16), ruler).count("not forgotten") >= 8


def test_two_holders_alike_do_not_show_where_such_models_end() -> None:
    one = sample(1, member=1, seed=16)

    def alike(k: int) -> Sample:
        return Sample(*(x.repeat(k, 0) for x in (one.forget, one.place, one.utility)), one.floor)

    edited, oracle = sample(1, member=1, seed=16), sample(1, member=0, seed=2)
    assert Ruler(alike(3), oracle).find(edited).outcome == "not forgotten"
    assert Ruler(alike(2), oracle).find(edited).outcome == "inconclusive"


def test_accuracy_of_two_reference_models_may_be_missed_by_five_points() -> None:
    at = lambda s, k, heldout: Sample(s.forget[:k], s.place[:k], np.tile([100.0, heldout], (k, 1)), s.floor)  # noqa: E731
    ruler = Ruler(at(RULER.holders, 2, 85.0), at(RULER.oracles, 2, 85.0))
    edited = sample(1, member=0, seed=22)
    assert ruler.find(at(edited, 1, 79.9)).outcome == "collapsed"
    assert ruler.find(at(edited, 1, 80.1)).outcome != "collapsed"


def test_a_failing_control_stops_the_verdict() -> None:
    # the "original" has in truth forgotten: it must be called not forgotten, and cannot be
    odd = sample(1, member=0, seed=17)
    held = [
        np.concatenate([getattr(odd, f), getattr(RULER.holders, f)]) for f in ("forget", "place", "utility")
    ]
    decision = decide(Ruler(Sample(*held, odd.floor), RULER.oracles), sample(1, member=0, seed=18))
    assert decision.verdict.outcome == "inconclusive"
    assert "original model" in decision.verdict.reason
    assert not decision.controls[0].passed


def decided(oracles: list[str], *, member: int) -> Decision:
    """The verdict on a model where the oracles, each judged by the others, came out like this."""
    ruler = Ruler(RULER.holders, RULER.oracles)
    ruler.__dict__["left_out_outcomes"] = (["not forgotten"] * 8, oracles)
    return decide(ruler, sample(1, member=member, seed=18))


def test_three_oracles_of_four_must_be_accepted() -> None:
    enough = decided(["forgotten"] * 6 + ["inconclusive"] * 2, member=0)
    assert (enough.controls[1].passed, enough.verdict.outcome) == (True, "forgotten")
    few = decided(["forgotten"] * 5 + ["over-forgotten"] * 2 + ["collapsed"], member=0)
    assert (few.controls[1].passed, few.controls[1].got) == (False, "over-forgotten")
    assert few.verdict.outcome == "inconclusive"
    assert few.verdict.reason.startswith(
        "Control failed: 8 retrained models, each judged by the others (5 accepted)"
    )


def test_oracles_too_few_to_judge_their_own_still_show_that_the_data_are_there() -> None:
    assert decided(["inconclusive"] * 8, member=1).verdict.outcome == "not forgotten"
    assert decided(["inconclusive"] * 8, member=0).verdict.outcome == "inconclusive"
    assert decided(["collapsed"] * 8, member=1).verdict.outcome == "inconclusive"


@pytest.mark.parametrize("holders", [1, 2])
def test_one_holder_gives_no_range(holders: int) -> None:
    verdict = decide(
        Ruler(sample(holders, member=1, seed=1), RULER.oracles), sample(1, member=0, seed=18)
    ).verdict
    assert (verdict.rejected is None) == (holders == 1)
    assert any("Only the original holds" in caveat for caveat in verdict.caveats) == (holders == 1)
    assert verdict.accepted is not None


def test_left_out_error_rates() -> None:
    rates = decide(RULER, sample(1, member=0, seed=19)).rates
    assert rates is not None
    assert (rates.oracles, rates.unedited) == (8, 8)
    assert rates.oracles_accepted >= 7 / 8
    assert rates.unedited_rejected == 1.0


def test_rates_count_what_is_wrong_apart_from_what_is_undecided() -> None:
    rates = rates_of(
        ["not forgotten", "forgotten"], ["forgotten", "inconclusive", "collapsed", "forgotten"], "x"
    )
    assert (rates.oracles_accepted, rates.unedited_rejected) == (0.5, 0.5)
    assert rates.inconclusive == pytest.approx(1 / 6)
    assert rates.wrong == pytest.approx(2 / 6)


def test_population_test_passes_what_ours_rejects() -> None:
    """A two-sample test, forget against held-out, cannot see a shift smaller than examples differ."""
    gap = {"gap": 0.8, "wide": 3.0}
    ruler = Ruler(sample(8, member=1, seed=1, **gap), sample(8, member=0, seed=2, **gap))
    unedited = sample(20, member=1, seed=20, **gap)
    draw = np.random.default_rng(21)
    passed = [ks_2samp(phi, 3 * EASY + draw.normal(0, 1, CONTROL)).pvalue > 0.05 for phi in unedited.forget]
    assert np.mean(passed) > 0.9
    assert outcomes(unedited, ruler).count("not forgotten") >= 18


def test_a_class_never_named_but_still_scored_is_not_forgotten() -> None:
    with_trace = lambda s, auc: Sample(s.forget, s.place, s.utility, s.floor, np.full(len(s), auc))  # noqa: E731
    noisy = np.random.default_rng(0).normal(0.7, 0.02, 8)
    oracles = Sample(
        RULER.oracles.forget, RULER.oracles.place, RULER.oracles.utility, RULER.oracles.floor, noisy
    )
    ruler = Ruler(with_trace(RULER.holders, 0.97), oracles)
    edited = sample(5, member=0, seed=22)
    assert set(outcomes(with_trace(edited, 0.95), ruler)) == {"not forgotten"}
    assert ruler.find(with_trace(edited.only(0), 0.97)).position == pytest.approx(0.0)
    assert set(outcomes(with_trace(edited, 0.70), ruler)) == {"forgotten"}
    assert set(outcomes(with_trace(edited, 0.50), ruler)) == {"forgotten"}


def test_a_trace_up_to_half_way_is_no_memory() -> None:
    with_trace = lambda s, auc: Sample(s.forget, s.place, s.utility, s.floor, np.broadcast_to(auc, len(s)))  # noqa: E731
    alike = 0.7 + np.array([1, -1] * 4) * 1e-6  # no fresh oracle would lie far from 0.7
    ruler = Ruler(with_trace(RULER.holders, 0.9), with_trace(RULER.oracles, alike))
    edited = sample(3, member=0, seed=22)
    assert set(outcomes(with_trace(edited, 0.799), ruler)) == {"forgotten"}
    assert set(outcomes(with_trace(edited, 0.801), ruler)) == {"not forgotten"}
    # where oracles differ much, a fresh one may lie beyond half way, too
    apart = Ruler(ruler.holders, with_trace(RULER.oracles, 0.7 + np.array([1, -1] * 4) * 0.1))
    assert set(outcomes(with_trace(edited, 0.85), apart)) == {"forgotten"}


def test_prediction_interval_of_left_out_values_covers_a_fresh_model() -> None:
    # deviations from the others' mean are n / (n - 1) times those from the mean of all; the interval allows for that,
    # a little on the safe side
    values = np.random.default_rng(0).normal(size=(2500, 5))
    fresh = np.random.default_rng(1).normal(size=2500)
    inside = 0
    for row, new in zip(values, fresh, strict=True):
        left = np.array([x - np.delete(row, i).mean() for i, x in enumerate(row)])
        low, high = prediction(left, left_out=True)
        inside += low <= new - row.mean() <= high
    assert 0.945 < inside / 2500 < 0.98
