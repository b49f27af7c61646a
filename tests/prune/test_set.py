from __future__ import annotations

from math import cos, pi
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.contract import world
from tests.prune.dynamic import (
    STEPS,
    assert_dead_weights_are_zero,
    assert_resumes,
    assert_state_is_reset,
    changes,
    counts,
    train,
)
from unweave import Mask, Supervised, seeded
from unweave.errors import InputError
from unweave.masks import lowest
from unweave.optim import SAM
from unweave.prune import ERK, GMP, SET, Global, Uniform
from unweave.prune.dynamic import drawn

METHOD = SET(budget=ERK(0.7), every=4, rate=0.5)


def test_keeps_every_layers_count_and_changes_when_due() -> None:
    model, masks = train(METHOD)
    assert all(counts(m) == counts(masks[0]) for m in masks)
    assert abs(masks[0].density() - 0.3) * sum(a.numel() for a in masks[0].keep.values()) < 1
    assert changes(masks)
    assert all(i % 4 == 0 and i <= 0.75 * STEPS for i in changes(masks))
    assert_dead_weights_are_zero(model, masks[-1])


def test_drops_the_smallest_and_grows_only_the_dead() -> None:
    seen = []

    def look(step: object) -> None:
        seen.append({n: w.detach().abs().clone() for n, w, _ in step.hold.match(step.model)})

    _, masks = train(METHOD, watch=look)
    i = changes(masks)[0]
    for name, before in masks[i - 1].keep.items():
        now = masks[i].keep[name]
        dropped, grown = before & ~now, now & ~before
        assert dropped.sum() == grown.sum() > 0
        assert seen[i - 1][name][dropped].max() <= seen[i - 1][name][before & now].min()
        assert not seen[i - 1][name][grown].any()  # grown weights start at zero


@pytest.mark.parametrize("decay", ["cosine", "constant"])
def test_as_many_as_the_decay_says(decay: str) -> None:
    method = SET(budget=Uniform(0.5), every=4, rate=0.5, decay=decay, until=0.8)
    _, masks = train(method)
    sizes = counts(masks[0])
    for index in range(4, int(0.8 * STEPS) + 1, 4):
        share = 0.25 * (1 + cos(pi * index / (0.8 * STEPS))) if decay == "cosine" else 0.5
        for name, alive in masks[index].keep.items():
            assert int((masks[index - 1].keep[name] & ~alive).sum()) == int(share * sizes[name])


def test_forgets_momentum_where_the_mask_changed() -> None:
    assert_state_is_reset(METHOD, first=4)


def test_resumes_to_the_same_bits(tmp_path: Path) -> None:
    assert_resumes(METHOD, tmp_path)


@pytest.mark.parametrize("sparse", [METHOD, GMP(budget=Global(0.7), every=3)], ids=["set", "gmp"])
@pytest.mark.parametrize("optimizer", [None, SAM])
def test_trains_within_a_recipe(sparse: object, optimizer: object) -> None:
    data = world.points()[0]
    model = Supervised(network=world.network, epochs=6, lr=0.05, sparse=sparse, optimizer=optimizer).build(
        data, rng=seeded(0)
    )
    assert 0.25 < Mask.of(model).density() < 0.31  # grown weights that got no gradient are still zero


def test_keeps_the_models_own_mask() -> None:
    model, data = world.model(sparse=True), world.points()[0]
    mask, _ = METHOD.begin(model, data, steps=10, rng=seeded(0))
    assert counts(mask) == counts(Mask.of(model))


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=30), st.data())
@settings(deadline=None)
def test_lowest_takes_exactly_so_many(values: list[int], data: st.DataObject) -> None:
    tensor = torch.tensor(values, dtype=torch.float32)
    among = torch.tensor(data.draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values))))
    n = data.draw(st.integers(0, int(among.sum())))
    found = lowest(tensor, among, n)
    assert int(found.sum()) == n
    assert not (found & ~among).any()
    if 0 < n < int(among.sum()):
        assert tensor[found].max() <= tensor[among & ~found].min()


@given(st.integers(1, 200), st.integers(0, 5), st.integers(0, 2**31))
@settings(deadline=None)
def test_drawn_takes_exactly_so_many(size: int, step: int, seed: int) -> None:
    among = torch.rand(size, generator=seeded(seed)) < (step + 1) / 6
    n = int(among.sum()) * step // 5
    found = drawn(among, n, seeded(seed))
    assert int(found.sum()) == n
    assert not (found & ~among).any()
    assert torch.equal(found, drawn(among, n, seeded(seed)))


def test_drawing_is_uniform() -> None:
    among = torch.ones(20, dtype=torch.bool)
    among[::4] = False
    total = sum(drawn(among, 3, seeded(s)).double() for s in range(3000))
    assert not total[::4].any()
    expected = 3000 * 3 / 15
    assert ((total[among] - expected).square() / expected).sum() < 37.7  # chi-squared, 14 degrees, 0.05 %


@pytest.mark.parametrize("bad", [{"rate": 0.0}, {"rate": 1.5}, {"every": 0}, {"until": 0.0}])
def test_refuses(bad: dict[str, float]) -> None:
    with pytest.raises(InputError, match=f"SET.{next(iter(bad))}"):
        SET(**bad)
