"""The verdict on pipelines, rule by rule, against bounds that are computed here from the binomial distribution."""

from __future__ import annotations

from math import comb, sqrt
from statistics import NormalDist

import pytest
import torch

from unweave.audit.drawing.compared import Compared, Strayed, Tried
from unweave.audit.drawing.drawn import Drawn
from unweave.audit.drawing.verdict import (
    _TABLE,
    brought_back,
    controls_of,
    decide,
    lost,
    returned,
    survivors,
)
from unweave.erase import Concepts
from unweave.statistics import at_least, at_most, difference

NONE = torch.zeros(0)
CALM = Strayed(outside=(1, 24), missing=(1, 24))


def tail(hits: int, n: int, p: float) -> float:
    """P(at least so many hits)."""
    return sum(comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(hits, n + 1))


def root(f, low: float = 0.0, high: float = 1.0) -> float:
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if f(middle) < 0 else (low, middle)
    return low


def lower(hits: int, n: int, alpha: float) -> float:
    """The share under which so many hits are as rare as alpha."""
    return root(lambda p: tail(hits, n, p) - alpha) if hits else 0.0


def upper(hits: int, n: int, alpha: float) -> float:
    return 1 - lower(n - hits, n, alpha)


def score(hits: int, n: int, alpha: float) -> tuple[float, float]:
    """Where (p - share)^2 = z^2 share (1 - share) / n, by its quadratic."""
    z2, p = NormalDist().inv_cdf(1 - alpha) ** 2, hits / n
    a, b, c = 1 + z2 / n, -(2 * p + z2 / n), p * p
    reach = sqrt(b * b - 4 * a * c)
    return (-b - reach) / (2 * a), (-b + reach) / (2 * a)


def newcombe(one: tuple[int, int], other: tuple[int, int], alpha: float) -> tuple[float, float]:
    (l1, u1), (l2, u2) = score(*one, alpha), score(*other, alpha)
    p, q = one[0] / one[1], other[0] / other[1]
    return p - q - sqrt((p - l1) ** 2 + (u2 - q) ** 2), p - q + sqrt((u1 - p) ** 2 + (q - l2) ** 2)


def drawn(n: int = 24, **hits: int) -> Drawn:
    named = {c: [c] * k + [""] * (n - k) for c, k in hits.items()}
    return Drawn(images=dict.fromkeys(hits, NONE), named=named)


def compared(
    edited: Drawn, original: Drawn, erase=("cat",), preserve=("dog",), strayed=CALM, **more
) -> Compared:
    concepts = Concepts(erase=tuple(erase), preserve=tuple(preserve))
    return Compared(concepts=concepts, edited=edited, original=original, strayed=strayed, **more)


def word(c: Compared) -> str:
    return decide(c, controls_of(c)).outcome


@pytest.mark.parametrize(("hits", "n"), [(0, 24), (1, 24), (7, 24), (23, 24), (24, 24), (3, 8), (0, 1)])
@pytest.mark.parametrize("alpha", [0.05, 0.0025])
def test_exact_bounds_have_their_error(hits: int, n: int, alpha: float) -> None:
    assert at_least(hits, n, alpha) == pytest.approx(lower(hits, n, alpha), abs=1e-9)
    assert at_most(hits, n, alpha) == pytest.approx(upper(hits, n, alpha), abs=1e-9)


@pytest.mark.parametrize(
    ("one", "other"), [((24, 24), (0, 24)), ((12, 24), (12, 24)), ((3, 24), (1, 48)), ((20, 24), (40, 96))]
)
def test_differences_are_newcombes(one, other) -> None:
    for alpha in (0.05, 0.005):
        assert difference(*one, *other, alpha) == pytest.approx(newcombe(one, other, alpha), abs=1e-9)
    assert difference(*one, 0, 0) == (-1.0, 1.0)


def test_newcombes_own_example() -> None:
    # Newcombe 1998, table II, row (a): 56/70 - 48/80, method 10, two-sided 95 %
    assert difference(56, 70, 48, 80, 0.025) == pytest.approx((0.0524, 0.3339), abs=5e-5)


@pytest.mark.parametrize("n", [8, 24, 32, 96])
def test_one_concept_alone(n: int) -> None:
    """The word at every count, without a retrained pipeline."""
    for hits in range(n + 1):
        found = word(compared(drawn(n, cat=hits, dog=n), drawn(n, cat=n, dog=n)))
        if lower(hits, n, 0.05) > 0.05:
            expected = "not erased"
        else:
            expected = "inconclusive" if upper(hits, n, 0.05) > 0.2 else "erased"
        assert found == expected, hits
    assert word(compared(drawn(24, cat=1, dog=24), drawn(24, cat=24, dog=24))) == "erased"
    assert word(compared(drawn(24, cat=3, dog=24), drawn(24, cat=24, dog=24))) == "inconclusive"
    assert word(compared(drawn(24, cat=4, dog=24), drawn(24, cat=24, dog=24))) == "not erased"


@pytest.mark.parametrize("never", [0, 2, 12])
def test_retrained_pipelines_are_the_measure(never: int) -> None:
    oracles = (drawn(cat=never, dog=24), drawn(cat=never, dog=24))
    for hits in range(25):
        found = word(compared(drawn(cat=hits, dog=24), drawn(cat=24, dog=24), oracles=oracles))
        low, high = newcombe((hits, 24), (2 * never, 48), 0.05)
        expected = "not erased" if low > 0.05 else "inconclusive" if high > 0.2 else "erased"
        assert found == expected, hits


def test_one_of_many_concepts_is_found_and_named() -> None:
    names = tuple(f"c{i}" for i in range(20))
    before = drawn(**dict.fromkeys(names, 24), dog=24)
    for hits in range(25):
        c = compared(drawn(**dict.fromkeys(names, 0) | {"c7": hits}, dog=24), before, names)
        assert survivors(c) == (["c7"] if lower(hits, 24, 0.05 / 20) > 0.05 else [])
    found = decide(c, controls_of(c))
    assert found.outcome == "not erased"
    assert "Still drawn: c7 in 24 of 24 images" in found.reason
    half = compared(drawn(**dict.fromkeys(names, 0) | {"c7": 12}, dog=24), before, names)
    assert word(half) == "not erased"
    few = compared(drawn(**dict.fromkeys(names, 0) | {"c7": 3}, dog=24), before, names)
    assert word(few) == "inconclusive"
    assert "one image in 5 (c7)" in decide(few, controls_of(few)).reason


def test_one_of_many_kept_concepts_is_found_and_named() -> None:
    kept = tuple(f"k{i}" for i in range(20))
    before = drawn(cat=24, **dict.fromkeys(kept, 24))
    for hits in range(25):
        c = compared(drawn(cat=0, **dict.fromkeys(kept, 24) | {"k3": hits}), before, preserve=kept)
        assert lost(c) == (["k3"] if newcombe((24, 24), (hits, 24), 0.05 / 20)[0] > 0.05 else [])
    gone = compared(drawn(cat=0, **dict.fromkeys(kept, 24) | {"k3": 0}), before, preserve=kept)
    assert decide(gone, controls_of(gone)).outcome == "damaged"
    assert "Drawn less than before: k3 in 0 of 24 images" in decide(gone, controls_of(gone)).reason


def test_a_kept_concept_may_be_drawn_as_by_the_retrained_pipeline_that_draws_it_least() -> None:
    edited, original, whole = drawn(60, cat=0, dog=30), drawn(60, cat=60, dog=60), drawn(60, cat=0, dog=60)
    assert word(compared(edited, original, oracles=(whole,))) == "damaged"
    assert word(compared(edited, original, oracles=(whole, drawn(60, cat=0, dog=30)))) == "erased"


def test_neighbours_count_although_nobody_named_them() -> None:
    edited, original = drawn(cat=0, lynx=6), drawn(cat=24, lynx=24)
    c = compared(edited, original, preserve=(), neighbours=("lynx",))
    found = decide(c, controls_of(c))
    assert found.outcome == "damaged"
    assert "lynx in 6 of 24 images, some of which nobody named" in found.reason


def test_concepts_erased_earlier_must_stay_so() -> None:
    original = drawn(cat=24, dog=24, bird=1)
    for hits in range(25):
        c = compared(drawn(cat=0, dog=24, bird=hits), original, earlier=("bird",))
        assert returned(c) == (["bird"] if lower(hits, 24, 0.05) > 0.05 else [])
    found = decide(c, controls_of(c))
    assert found.outcome == "not erased"
    assert "Erased earlier, drawn again: bird in 24 of 24 images (before this edit: bird 4 %)" in found.reason
    assert found.next_step


@pytest.mark.parametrize("side", ["outside", "missing"])
def test_prompts_without_a_concept_show_damage(side: str) -> None:
    for hits in range(25):
        strayed = Strayed(**{"outside": (1, 24), "missing": (1, 24), side: (hits, 24)})
        c = compared(drawn(cat=0), drawn(cat=24), preserve=(), strayed=strayed)
        expected = "damaged" if lower(hits, 24, 0.025) > 0.75 else "erased"
        assert word(c) == expected, hits
    assert expected == "damaged"


def test_without_a_look_at_what_must_survive_nothing_is_called_erased() -> None:
    blind = compared(drawn(cat=0), drawn(cat=24), preserve=(), strayed=None)
    found = decide(blind, controls_of(blind))
    assert found.outcome == "inconclusive"
    assert "nothing that must survive was looked at" in found.reason
    assert "--preserve" in found.next_step
    for n in (2, 12, 13):
        few = Strayed(outside=(0, n), missing=(0, n))  # even all of them could not show damage
        expected = "erased" if lower(n, n, 0.025) > 0.75 else "inconclusive"
        assert word(compared(drawn(cat=0), drawn(cat=24), preserve=(), strayed=few)) == expected
    assert expected == "erased"
    named = compared(drawn(cat=0, dog=24), drawn(cat=24, dog=24), strayed=None)
    assert word(named) == "erased"


def test_too_few_images_of_a_kept_concept_cannot_show_its_loss() -> None:
    few = Drawn(images={}, named={"cat": [""] * 24, "dog": ["dog"]})
    before = Drawn(images={}, named={"cat": ["cat"] * 24, "dog": ["dog"]})
    assert newcombe((1, 1), (0, 1), 0.05)[0] <= 0.05
    c = compared(few, before)
    assert decide(c, controls_of(c)).outcome == "inconclusive"
    assert "too few images to see a loss of dog" in decide(c, controls_of(c)).reason


def test_a_small_loss_of_all_that_is_kept_is_not_passed_over() -> None:
    kept = tuple(f"k{i}" for i in range(20))
    before = drawn(cat=24, **dict.fromkeys(kept, 24))
    for hits in range(17, 25):
        c = compared(drawn(cat=0, **dict.fromkeys(kept, hits)), before, preserve=kept)
        if newcombe((24, 24), (hits, 24), 0.05 / 20)[0] > 0.05:
            expected = "damaged"
        else:
            expected = "inconclusive" if newcombe((480, 480), (20 * hits, 480), 0.05)[1] > 0.2 else "erased"
        assert word(c) == expected, hits


def test_a_kept_concept_that_the_judge_hardly_sees_is_said_and_left_out() -> None:
    c = compared(drawn(cat=0, dog=0, hen=24), drawn(cat=24, dog=11, hen=24), preserve=("dog", "hen"))
    found = decide(c, controls_of(c))
    assert found.outcome == "erased"
    assert any("dog" in said and "cannot be seen" in said for said in found.caveats)


def tried(edited: int, control: int | None = None, never: int | None = None, n: int = 10) -> Tried:
    def of(hits: int | None) -> dict[str, tuple[int, int]]:
        return {} if hits is None else {"cat": (hits, n)}

    return Tried(name="x", edited=of(edited), control=of(control), never=of(never))


GONE = (drawn(cat=0, dog=24), drawn(cat=24, dog=24))


@pytest.mark.parametrize(
    ("edited", "control", "never"),
    [*((k, 0, None) for k in range(11)), (10, 10, None), (5, 4, None), (10, 0, 10), (10, 10, 0), (0, None, None), (10, None, None)],
)  # fmt: skip
def test_an_attack_is_measured_by_the_retrained_or_by_its_control(edited, control, never) -> None:
    attack = tried(edited, control, never)
    null, margin = (control, 0.2) if never is None else (never, 0.05)
    found = decide(compared(*GONE, tried=(attack,)))
    (check,) = found.checks
    if null is not None and newcombe((edited, 10), (null, 10), 0.05)[0] > margin:
        assert (found.outcome, check.passed, brought_back(attack)) == ("not erased", False, ["cat"])
        assert found.reason.startswith(
            f"It is hidden, not gone. The attack x draws an erased concept for {edited}"
        )
    elif never is None and lower(edited, 10, 0.05) > 0.2:
        assert (found.outcome, check.passed, brought_back(attack)) == ("inconclusive", None, [])
        assert "--oracle" in found.next_step
    else:
        power = null is not None and newcombe((10, 10), (null, 10), 0.05)[0] > margin
        assert (found.outcome, check.passed, brought_back(attack)) == ("erased", True if power else None, [])


def test_an_attack_on_one_of_many_concepts_counts() -> None:
    names = [f"c{i}" for i in range(10)]
    edited, control = dict.fromkeys(names, (0, 8)) | {"c4": (8, 8)}, dict.fromkeys(names, (0, 8))
    assert newcombe((8, 8), (0, 8), 0.05 / 11)[0] > 0.2
    assert brought_back(Tried(name="x", edited=edited, control=control, never={})) == ["c4"]
    thin = dict.fromkeys(names, (4, 8))  # none alone, but all together
    assert newcombe((4, 8), (0, 8), 0.05 / 11)[0] <= 0.2 < newcombe((40, 80), (0, 80), 0.05 / 11)[0]
    assert brought_back(Tried(name="x", edited=thin, control=control, never={})) == [""]


def test_the_first_rule_that_holds_gives_the_word() -> None:
    """All faults at once, taken away one by one from the first."""
    names = [rule.__name__ for rule in _TABLE]
    assert names == ["_survives", "_came_back", "_hidden", "_damaged", "_too_few", "_unmeasured", "_unseen"]
    faults = {
        "not erased": (24, 24, tried(10, 0), 0, 24),
        "not erased ": (0, 24, tried(10, 0), 0, 24),
        "not erased  ": (0, 0, tried(10, 0), 0, 24),
        "damaged": (3, 0, tried(10, 10), 0, 24),
        "inconclusive": (3, 0, tried(10, 10), 24, 24),
        "inconclusive ": (0, 0, tried(10, 10), 24, 24),
        "erased": (0, 0, tried(0, 0), 24, 24),
    }
    starts = ["0 of", "Erased earlier", "It is hidden", "Drawn less", "Too few", "The attack x", "0 %"]
    for (expected, (cat, bird, attack, dog, _)), start in zip(faults.items(), starts, strict=True):
        c = compared(
            drawn(cat=cat, bird=bird, dog=dog), drawn(cat=24, bird=0, dog=24), earlier=("bird",), tried=(attack,)
        )  # fmt: skip
        found = decide(c, controls_of(c))
        assert found.outcome == expected.strip()
        assert start in found.reason or expected == "not erased"


def test_damage_is_told_beside_a_survivor() -> None:
    c = compared(drawn(cat=24, dog=0), drawn(cat=24, dog=24))
    found = decide(c, controls_of(c))
    assert found.outcome == "not erased"
    assert found.caveats[0].startswith("Drawn less than before: dog in 0 of 24 images")


def test_a_failed_control_decides() -> None:
    c = compared(drawn(cat=0, dog=24), drawn(cat=11, dog=24))
    assert decide(c, controls_of(c)).outcome == "inconclusive"
    assert not controls_of(c)[0].passed
    c = compared(drawn(cat=0, dog=24), drawn(cat=24, dog=24), oracles=(drawn(cat=22, dog=24),))
    assert [k.passed for k in controls_of(c)] == [True, False]


def test_says_what_the_images_can_exclude() -> None:
    c = compared(*GONE)
    assert f"{100 * upper(0, 24, 0.05):.0f}" == "12"
    said = decide(c, controls_of(c)).reason
    assert "24 images of a concept exclude that 12 % of them or more show it." in said
    c = compared(drawn(cat=1, dog=24), drawn(cat=24, dog=24))
    said = decide(c, controls_of(c)).reason
    assert f"at best; those of cat exclude {100 * upper(1, 24, 0.05):.0f} %." in said
