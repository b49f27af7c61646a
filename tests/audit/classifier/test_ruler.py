"""The ruler on made-up figures, against a slow one written example by example."""

from __future__ import annotations

from math import log
from statistics import fmean, pvariance

import numpy as np
import pytest

from tests.audit.classifier.made import RULER, N, vectors
from unweave.audit.classifier.ruler import Ruler, Vectors


def test_exact_position_without_noise() -> None:
    # one example: held phi 3, oracles 1, no spread; matching leaves phi alone as all controls agree
    control = np.tile([0.0, 1.0, 2.0, 3.0], (3, 1))
    make = lambda phi: Vectors.matched(np.full((3, 1), phi), control, 10)  # noqa: E731
    ruler = Ruler(make(3.0), make(1.0))
    for phi, expected in ((3.0, 0.0), (2.0, 0.5), (1.0, 1.0), (1.5, 0.75)):
        assert ruler.read(make(phi).only(0)).kept == pytest.approx([expected])


def naive_raw(holders: Vectors, oracles: Vectors, model: Vectors) -> tuple[float, ...]:
    """Position by the cut and the uncut sum, distance and its far side, as the module's first lines say."""
    matching = holders.place is not None
    location, scale = (
        (fmean(p[k] for p in [*holders.place, *oracles.place]) for k in (0, 1)) if matching else (0, 0)
    )

    def matched(models: Vectors) -> list[list[float]]:
        if not matching:
            return models.values.tolist()
        return [
            [max(models.floor, location + (x - p[0]) * min(4.0, max(0.25, scale / p[1]))) for x in phi]
            for phi, p in zip(models.values, models.place, strict=True)
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

    off = [min(5.0, max(-5.0, (x - y) / s)) for x, y, s in zip(phi, b, sd, strict=True)]
    over = [z if z * (x - y) < 0 else 0.0 for z, x, y in zip(off, a, b, strict=True)]
    return position(False), position(True), fmean(z * z for z in off), fmean(z * z for z in over)


@pytest.mark.parametrize("matching", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_reading_equals_the_slow_one(seed: int, matching: bool) -> None:
    draw = np.random.default_rng(seed)
    hard, scale = draw.normal(0, 2, 7), draw.uniform(0.3, 3, 9)

    def models(k: int, gap: float) -> Vectors:
        forget = hard + gap * draw.uniform(0, 2, 7) + draw.normal(0, 0.7, (k, 7))
        control = draw.normal(1, 3, (k, 40))
        return (
            Vectors.matched(forget * draw.choice(scale, (k, 1)), control, 10) if matching else Vectors(forget)
        )

    holders, oracles = models(4, 3.0), models(5, 0.0)
    held = [naive_raw(holders.without(i), oracles, holders.only(i)) for i in range(4)]
    never = [naive_raw(holders, oracles.without(i), oracles.only(i)) for i in range(5)]
    start, end = np.mean(held, 0), np.mean(never, 0)
    ruler = Ruler(holders, oracles)
    for edited in (models(1, 0.0), models(1, 3.0), models(1, -9.0)):
        for made_from in ((), (2,)):
            base = holders.without(2) if made_from else holders
            raw = np.array(naive_raw(base, oracles, edited))
            found = ruler.read(edited, made_from)
            assert [*found.kept, *found.beyond] == pytest.approx(
                (raw - start)[:2] / (end - start)[:2], rel=1e-6
            )
            assert [*found.distance, *found.over] == pytest.approx(raw[2:], rel=1e-9)
    left_out = ruler.references
    assert left_out[0].kept == pytest.approx(
        [(r[0] - start[0]) / (end[0] - start[0]) for r in held], rel=1e-6
    )
    assert left_out[1].distance == pytest.approx([r[2] for r in never], rel=1e-9)
    assert (left_out[0].kept.mean(), left_out[1].kept.mean()) == pytest.approx((0, 1), abs=1e-9)


def test_several_models_read_as_each_alone() -> None:
    group = vectors(4, member=0.5, seed=3)
    alone = [RULER.read(group.only(i)).kept[0] for i in range(4)]
    assert RULER.read(group).kept == pytest.approx(alone, rel=1e-12)


def test_information_and_effective_examples() -> None:
    # holders at 0 and oracles at -d with a pooled deviation that is the same everywhere: all examples pull alike
    noise = np.array([[1.0], [0.0], [-1.0]])
    alike = Ruler(Vectors(noise + np.zeros((3, 5))), Vectors(noise - np.full(5, 4.0)))
    variance = (4 + 8 * 4 / 4) / 12 + 1e-6
    assert alike.information == pytest.approx(5 * 16 / variance)
    assert alike.effective == pytest.approx(5)
    uneven = np.array([40.0, 0.001, 0.001, 0.001, 0.001])
    assert Ruler(Vectors(noise + np.zeros((3, 5))), Vectors(noise - uneven)).effective < 1.5


def test_the_floor_is_a_tenth_of_chance() -> None:
    made = Vectors.matched(np.zeros((1, 1)), np.tile([-50.0, 0.0, 1.0, 2.0, 3.0], (1, 1)), 4)
    assert made.floor == pytest.approx(log(0.025 / 0.975))
    assert made.place is not None
    assert made.place[0] == pytest.approx([1.0, 2.0])  # quartiles 0, 2; the -50 counts as the floor


def test_no_difference_has_no_position() -> None:
    same = Vectors(np.zeros((3, 4)))
    assert np.isnan(Ruler(same, same).read(same.only(0)).kept).all()


@pytest.mark.parametrize(("shift", "stretch"), [(0.0, 0.5), (0.0, 2.0), (-1.5, 1.0), (1.5, 1.0)])
def test_confidence_of_the_whole_model_moves_nothing(shift: float, stretch: float) -> None:
    changed = RULER.read(vectors(10, member=1, seed=10, shift=shift, stretch=stretch)).kept
    same = RULER.read(vectors(10, member=1, seed=10)).kept
    assert changed == pytest.approx(same, abs=0.05)


def test_forgetting_half_too_much_does_not_pay_for_keeping_the_other_half() -> None:
    held, oracle = vectors(10, member=1, seed=6), vectors(10, member=0, seed=7)
    mixed = held.values.copy()
    mixed[:, : N // 2] = 2 * oracle.values[:, : N // 2] - held.values[:, : N // 2]
    assert abs(mixed.mean() - oracle.values.mean()) < 0.1  # the plain mean over the forget set is an oracle's
    found = RULER.read(Vectors(mixed, held.place, held.floor))
    assert (found.kept < 0.8).all()
    assert (found.over > 3 * RULER.references[1].over.mean()).all()
