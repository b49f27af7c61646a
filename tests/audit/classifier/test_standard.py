"""The decision table, row by row, on made-up figures."""

from __future__ import annotations

from dataclasses import replace
from math import log1p, sqrt

import numpy as np
import pytest
from scipy import stats

from tests.audit.classifier.made import RULER, STANDARD, N, outcomes, readings, standard, vectors
from unweave.audit.classifier.readings import HEAD, MASK, RELEARN, TRACE, Hidden, Readings
from unweave.audit.classifier.ruler import Places, Ruler, Vectors


def end(values: np.ndarray, alpha: float, side: int, *, left_out: bool = True, several: int = 1) -> float:
    n = len(values)
    wide = (1 / several + 1 / n) * ((n - 1) / n if left_out else 1)
    return values.mean() + side * stats.t.ppf(1 - alpha, n - 1) * values.std(ddof=1) * sqrt(wide)


def one(**changed: float) -> Readings:
    """A model that reads as the mean oracle, but for these."""
    never = STANDARD.oracles.mean()
    places = {name: getattr(never.answers, name) for name in ("kept", "beyond", "distance", "over", "share")}
    at = Places(
        **{name: np.array([changed.pop(name)]) if name in changed else v for name, v in places.items()}
    )
    others = {name: np.array([v]) for name, v in changed.items()}
    return replace(never, answers=at, **others)


def test_limits_are_ends_of_one_sided_student_intervals() -> None:
    held, never = STANDARD.holders, STANDARD.oracles
    assert STANDARD.low == pytest.approx(min(0.95, end(never.answers.kept, 0.01, -1)))
    ends = [end(held.answers.kept, 0.025, side) for side in (-1, 1)]
    assert STANDARD.held == pytest.approx(ends)
    assert STANDARD.top == pytest.approx(max(0.05, ends[1]))
    assert STANDARD.high == pytest.approx(max(1.25, end(never.answers.beyond, 0.01, 1)))
    d = never.answers.distance
    assert STANDARD.far == pytest.approx(max(end(d, 0.005, 1), 1.5 * d.mean(), d.mean() + 1))
    o = never.answers.over
    assert STANDARD.over == pytest.approx(max(end(o, 0.005, 1), 1.5 * o.mean(), o.mean() + 1))
    s, h = never.answers.share, held.answers.share
    assert STANDARD.leak == pytest.approx(max(end(s, 0.01, 1), s.mean() + 0.05 * (h.mean() - s.mean())))
    expected = min(
        min(end(x.heldout, 0.005, -1, left_out=False), x.heldout.mean() - 2) for x in (held, never)
    )
    assert STANDARD.ability == pytest.approx(expected)


def test_a_model_that_has_not_begun_to_forget_is_told_so_however_alike_the_others_are() -> None:
    held = STANDARD.holders
    alike = replace(held.answers, kept=np.linspace(-0.001, 0.001, len(held)))
    close = replace(STANDARD, holders=replace(held, answers=alike))
    assert close.held[1] < 0.01
    assert close.top == 0.05
    assert close.find(one(kept=0.049)).outcome == "not forgotten"
    assert close.find(one(kept=0.051)).outcome == "partly forgotten"


def test_the_mean_of_several_is_held_to_narrower_limits() -> None:
    four = standard(RULER, several=4)
    assert four.held[1] == pytest.approx(end(four.holders.answers.kept, 0.025, 1, several=4))
    assert four.held[1] < STANDARD.held[1]
    # what they tell adds up
    assert replace(four, information=12.6).resolved
    assert not replace(four, information=12.4).resolved


def test_a_ruler_that_rests_on_one_example_decides_nothing_about_one_model() -> None:
    four = standard(RULER, several=4)
    assert replace(four, effective=0.75).resolved
    assert not replace(four, effective=0.74).resolved
    narrow = replace(STANDARD, effective=1.3)
    found = narrow.find(one())
    assert found.outcome == "inconclusive"
    assert "differ on hardly more than one of the examples (1.3 of equal pull)" in found.reason
    assert replace(STANDARD, effective=3.0).find(one()).outcome == "forgotten"


@pytest.mark.parametrize(
    ("changed", "outcome", "says"),
    [
        ({}, "forgotten", "its position is"),
        ({"heldout": 70.0}, "collapsed", "accuracy on held-out examples is 70.0 %"),
        ({"heldout": 70.0, "kept": 0.0}, "collapsed", "70.0 %"),  # ten points: nothing else needs to be said
        ({"heldout": 80.0, "kept": 0.0}, "not forgotten", "where models that hold the data lie"),
        ({"retain": 40.0}, "forgotten", ""),  # what is memorised of the retained set is no ability
        ({"kept": 0.02}, "not forgotten", "where models that hold the data lie"),
        ({"kept": 0.6}, "partly forgotten", "about 40 % of it"),
        ({"kept": 0.6, "beyond": 2.0}, "partly forgotten", "goes too far elsewhere: it lies at 2.00"),
        ({"kept": 0.6, "over": 20.0, "distance": 25.0}, "partly forgotten", "some examples are pushed beyond"),
        ({"hidden": 0.1}, "answers only", "layers under them still hold the data: last layer made anew"),
        ({"share": 0.3}, "partly forgotten", "example by example"),
        ({"beyond": 1.8}, "over-forgotten", "worse than a model that never saw them"),
        ({"over": 20.0, "distance": 25.0}, "over-forgotten", "pushed beyond what a retrained model does"),
        ({"distance": 25.0}, "partly forgotten", "some are still answered as by models that hold them"),
        ({"hidden": 0.1, "share": 0.5, "beyond": 9.0}, "answers only", ""),  # the first row that applies
        ({"share": 0.5, "beyond": 9.0}, "partly forgotten", "And it goes too far elsewhere"),
    ],
)  # fmt: skip
def test_each_row(changed: dict[str, float], outcome: str, says: str) -> None:
    found = STANDARD.find(one(**changed))
    assert (found.outcome, says in found.reason) == (outcome, True), found.reason


@pytest.mark.parametrize("edge", ["low", "top", "high", "far", "over", "leak", "ability"])
def test_limits_decide_to_the_digit(edge: str) -> None:
    at = getattr(STANDARD, edge)
    field, bad, more = {
        "low": ("kept", "partly forgotten", {}), "top": ("kept", "partly forgotten", {}),
        "high": ("beyond", "over-forgotten", {}), "far": ("distance", "partly forgotten", {}),
        "over": ("over", "over-forgotten", {"distance": 99.0}), "leak": ("share", "partly forgotten", {}),
        "ability": ("heldout", "collapsed", {}),
    }[edge]  # fmt: skip
    good = {"top": "not forgotten", "over": "partly forgotten"}.get(edge, "forgotten")
    worse, step = {"low": -1, "ability": -1}.get(edge, 1), 1e-9
    if edge == "top":  # the floor of half the way does not reach below the holders' own end
        at = max(at, min(0.5, end(STANDARD.holders.answers.kept, 0.005, 1)))
    for side, expected in ((-worse, good), (worse, bad)):
        assert STANDARD.find(one(**{field: at + side * step}, **more)).outcome == expected


def test_a_whole_class_is_told_the_way_and_no_share() -> None:
    whole = standard(RULER, whole=True)
    assert "of the way from models that hold the data (0)" in whole.find(one(kept=0.6)).reason
    assert whole.find(one(share=0.3)).outcome == "forgotten"  # a leak of a class teaches the class


def test_few_examples_say_nothing_of_leaks() -> None:
    little = replace(STANDARD, information=1000.0)
    assert not little.sees_leaks
    assert little.find(one(share=0.5)).outcome == "forgotten"
    assert replace(STANDARD, information=1000.1).find(one(share=0.5)).outcome == "partly forgotten"


def test_an_unresolved_ruler_decides_nothing() -> None:
    same = standard(Ruler(vectors(8, member=1, gap=0, seed=1), vectors(8, member=0, gap=0, seed=2)))
    assert not same.resolved
    for changed in ({}, {"kept": 0.0}, {"hidden": 0.0}):
        assert same.find(one(**changed)).outcome == "inconclusive"
    lucky = replace(STANDARD, information=50.0)
    assert "too weakly" in lucky.find(one()).reason
    assert replace(STANDARD, information=50.1).find(one()).outcome == "forgotten"
    nothing = standard(Ruler(Vectors(np.zeros((4, 5))), Vectors(np.zeros((4, 5)))))
    assert "no differently" in nothing.find(one(kept=np.nan)).reason


def test_oracles_that_differ_too_much_accept_nobody() -> None:
    shifts = np.random.default_rng(0).normal(0, 0.8, (8, 1))
    wide = Vectors(RULER.oracles.values + shifts, RULER.oracles.place, RULER.oracles.floor)
    found = standard(Ruler(RULER.holders, wide)).find(one())
    assert (found.outcome, "half-forgotten would pass" in found.reason) == ("inconclusive", True)


def hidden(name: str, holders: list[float], oracles: list[float]) -> Hidden:
    field = {HEAD: "hidden", TRACE: "trace", RELEARN: "relearn", MASK: "mask"}[name]
    given = {field: (np.array(holders), np.array(oracles))}
    return next(h for h in standard(RULER, **given).hidden if h.name == name)


HELD = [0.97, 0.98, 0.99, 0.96, 0.97, 0.98, 0.99, 0.96]
NEVER = [0.70, 0.75, 0.72, 0.74, 0.71, 0.73, 0.76, 0.69]


def test_limits_of_hidden_figures() -> None:
    held, never = np.array(HELD), np.array(NEVER)
    trace = hidden(TRACE, HELD, NEVER)
    tenth = -never.mean() - 0.1 * (held.mean() - never.mean())
    assert trace.limit == pytest.approx(min(end(-never, 0.005, -1, left_out=False), tenth))
    steps = np.array([90.0, 110, 100, 95, 105, 100, 98, 102])
    slow = hidden(RELEARN, [0, 2, 0, 4, 0, 0, 2, 0], steps.tolist())
    assert slow.limit == pytest.approx(
        min(end(np.log1p(steps), 0.005, -1, left_out=False), log1p(steps.mean() / 2))
    )
    head = hidden(HEAD, (1 - never).tolist(), held.tolist())
    assert head.limit == pytest.approx(min(0.9, end(held, 0.01, -1)))
    mask = hidden(MASK, HELD, NEVER)
    assert mask.limit == pytest.approx(min(end(-never, 0.01, -1, left_out=False), tenth))
    for figure in (trace, slow, head, mask):
        assert figure.power
        assert figure.flags(figure.limit - 1e-9)
        assert not figure.flags(figure.limit + 1e-9)
        assert figure.place(figure.holders.mean()) == 0
        assert figure.place(figure.oracles.mean()) == 1


def test_a_bounded_figure_without_room_has_no_power() -> None:
    # 0.79 with a deviation of 0.043 and four oracles: the limit is an area of more than 1
    wide = hidden(TRACE, HELD[:4] * 2, [0.74, 0.79, 0.83, 0.80] * 2)
    few = Hidden(TRACE, wide.holders[:4], wide.oracles[:4], 0.005, wide.cap, left_out=False)
    assert -few.limit > 1
    assert not few.power
    assert not few.flags(-1.0)


def test_hidden_figures_need_three_of_each_and_skip_what_was_not_taken() -> None:
    assert not Hidden(HEAD, np.zeros(2), np.ones(3), 0.01, 0.9, left_out=True).power
    assert Hidden(HEAD, np.zeros(3), np.ones(3), 0.01, 0.9, left_out=True).power
    known = hidden(RELEARN, [0, 1, 0, np.nan, np.nan, np.nan, np.nan, np.nan], [90, 100, 95, *[np.nan] * 5])
    assert (len(known.holders), len(known.oracles)) == (3, 3)
    assert [h.name for h in STANDARD.hidden] == [HEAD]


def test_without_a_hidden_figure_of_power_nothing_is_forgotten() -> None:
    blind = standard(RULER, hidden=(np.ones(8), None))
    found = blind.find(one())
    assert (found.outcome, "hidden memory cannot be seen" in found.reason) == ("inconclusive", True)
    assert blind.find(one(), control=True).outcome == "forgotten"
    assert blind.find(one(kept=0.0)).outcome == "not forgotten"


def test_smallest_share_that_is_called() -> None:
    held, never = (float(s.answers.share.mean()) for s in (STANDARD.holders, STANDARD.oracles))
    assert STANDARD.smallest == pytest.approx(min(1 - STANDARD.low, (STANDARD.leak - never) / (held - never)))
    assert replace(STANDARD, information=100.0).smallest == pytest.approx(1 - STANDARD.low)


def test_accepts_retrained_and_rejects_unedited_models() -> None:
    assert outcomes(vectors(40, member=0, seed=3)).count("forgotten") >= 37
    assert outcomes(vectors(40, member=1, seed=4)).count("not forgotten") == 40


@pytest.mark.parametrize("kept", [0.3, 0.7])
def test_models_that_keep_part_of_the_forget_set(kept: float) -> None:
    found = outcomes(vectors(20, member=kept, seed=5))
    assert set(found) <= {"partly forgotten", "not forgotten"}
    assert found.count("partly forgotten") >= 16


def test_a_tenth_kept_whole_is_seen_where_examples_tell_enough() -> None:
    far = Ruler(vectors(8, member=1, seed=1, gap=4), vectors(8, member=0, seed=2, gap=4))
    assert outcomes(vectors(20, member=0.1, seed=5, gap=4), far).count("partly forgotten") >= 18
    assert outcomes(vectors(20, member=0, seed=3, gap=4), far).count("forgotten") >= 18


def test_half_kept_half_pushed_names_both_sides() -> None:
    held, oracle = vectors(4, member=1, seed=6), vectors(4, member=0, seed=7)
    mixed = held.values.copy()
    mixed[:, : N // 2] = oracle.values[:, : N // 2] - 5
    found = readings(RULER.read(Vectors(mixed, held.place, held.floor)))
    for i in range(4):
        reason = STANDARD.find(found.at([i])).reason
        assert "answered as by models that hold" in reason
        assert "goes too far elsewhere" in reason


def test_mean_of_several_readings() -> None:
    found = readings(RULER.read(vectors(3, member=0.5, seed=5)))
    mean = found.mean()
    assert len(mean) == 1
    assert mean.answers.kept[0] == pytest.approx(found.answers.kept.mean())
    assert mean.heldout[0] == pytest.approx(found.heldout.mean())
    assert len(found.at([0, 2])) == 2
