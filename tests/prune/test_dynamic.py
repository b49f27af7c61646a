"""The exchange that every dynamic sparse training is a setting of, by hand."""

from __future__ import annotations

from collections.abc import Callable
from math import cos, pi
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD

from tests.contract import world
from tests.prune.dynamic import STEPS, changes, counts, same, train
from unweave import Mask, seeded
from unweave.errors import InputError
from unweave.fit import Step
from unweave.optim import SAM
from unweave.prune import DSR, ERK, ITOP, MEST, SET, Global, RigL, Scope, StaticMask, Uniform
from unweave.prune.dynamic import (
    Exchange,
    Moment,
    at_random,
    by_gradient,
    constant,
    cosine,
    reset_,
    smallest,
    start,
)


def refuse() -> dict[str, Tensor]:
    raise AssertionError("nobody should ask for gradients")


def layer(*weights: float) -> nn.Linear:
    made = nn.Linear(len(weights), 1, bias=False)
    with torch.no_grad():
        made.weight.copy_(torch.tensor([weights]))
    return made


def at(
    model: nn.Module,
    alive: dict[str, list[list[bool]]],
    *,
    index: int = 10,
    gradients: Callable[[], dict[str, Tensor]] = refuse,
) -> Step:
    hold = Mask({name: torch.tensor(rows) for name, rows in alive.items()})
    return Step(model, SGD(model.parameters(), 0.1), index, 0, 0.0, False, hold, gradients)


def moment(step: Step, last: float = 40.0) -> Moment:
    return Moment(step, last, seeded(0))


ALIVE = {"weight": [[True, True, True, True, False, False]]}


# what dies, what lives


def test_the_smallest_die_and_never_more_than_can_live() -> None:
    step = at(layer(3.0, -1.0, 0.5, -2.0, 0.0, 0.0), ALIVE)
    assert smallest(constant(0.25))(moment(step))["weight"].tolist() == [[0, 0, 1, 0, 0, 0]]
    assert smallest(constant(0.74))(moment(step))["weight"].tolist() == [[0, 1, 1, 0, 0, 0]]  # 2.96 weights
    assert smallest(constant(1.0))(moment(step))["weight"].tolist() == [[0, 1, 1, 0, 0, 0]]  # two are dead


def test_growth_by_gradient_takes_the_largest_and_may_take_back_who_just_died() -> None:
    slopes = {"weight": torch.tensor([[9.0, -9.0, 9.0, -2.0, 1.0, -3.0]])}
    step = at(layer(3.0, -1.0, 0.5, -2.0, 0.0, 0.0), ALIVE, gradients=lambda: slopes)
    died = {"weight": torch.tensor([[False, False, False, True, False, False]])}
    assert by_gradient(moment(step), died)["weight"].tolist() == [[0, 0, 0, 0, 0, 1]]
    slopes["weight"][0, 3] = 4.0
    assert by_gradient(moment(step), died)["weight"].tolist() == [[0, 0, 0, 1, 0, 0]]
    assert slopes["weight"].tolist() == [[9.0, -9.0, 9.0, 4.0, 1.0, -3.0]]


def test_random_growth_takes_as_many_of_those_dead_before() -> None:
    step = at(layer(*[1.0] * 6), ALIVE)
    died = {"weight": torch.tensor([[True, False, False, False, False, False]])}
    seen = {tuple(at_random(Moment(step, 40.0, seeded(s)), died)["weight"][0].tolist()) for s in range(20)}
    assert seen == {(0, 0, 0, 0, 1, 0), (0, 0, 0, 0, 0, 1)}


@pytest.mark.parametrize("index", [1, 10, 20, 40, 60])
def test_the_cosine_falls_from_the_rate_to_nothing(index: int) -> None:
    step = at(layer(1.0), {"weight": [[True]]}, index=index)
    expected = 0.3 / 2 * (1 + cos(pi * index / 40)) if index <= 40 else 0.0
    assert cosine(0.3)(moment(step)) == pytest.approx(expected, abs=1e-12)
    assert constant(0.3)(moment(step)) == 0.3


# the exchange


class Fixed:
    """An exchange's settings, for a method made by hand."""

    budget, scope, every, usual, until = Uniform(0.5), Scope(), 4, 100, 0.5


def exchanged(step: Step, died: list[list[bool]], grown: list[list[bool]], **kinds: Any) -> Step:
    exchange = Exchange(
        Fixed(), lambda _: {"weight": torch.tensor(died)}, lambda *_: {"weight": torch.tensor(grown)}, **kinds
    )
    exchange.after(16, 7)(step)
    return step


DIED, GROWN = [[False, True, False, False, False, False]], [[False, False, False, False, True, False]]


@pytest.mark.parametrize(
    ("index", "beyond", "due"),
    [(3, False, False), (4, False, True), (8, False, True), (12, False, False), (12, True, True), (13, True, False),
     (16, False, False), (16, True, True)],
)  # fmt: skip
def test_when_masks_change(index: int, beyond: bool, due: bool) -> None:
    step = at(layer(*[1.0] * 6), ALIVE, index=index)
    exchanged(step, DIED, GROWN, beyond=beyond)
    expected = [[1, 0, 1, 1, 1, 0]] if due else [[1, 1, 1, 1, 0, 0]]
    assert step.hold.keep["weight"].tolist() == expected


def test_the_last_step_counts_where_no_interval_ends_there() -> None:
    class Odd(Fixed):
        every = 5

    made = Exchange(
        Odd(), lambda _: {"weight": torch.tensor(DIED)}, lambda *_: {"weight": torch.tensor(GROWN)}, True
    )
    step = at(layer(*[1.0] * 6), ALIVE, index=16)
    made.after(16, 7)(step)
    assert step.hold.keep["weight"].tolist() == [[1, 0, 1, 1, 1, 0]]


def test_masks_of_other_weights_stay() -> None:
    model = nn.Sequential(layer(*[1.0] * 6), layer(1.0, 2.0))
    step = at(model, {"0.weight": ALIVE["weight"], "1.weight": [[True, False]]}, index=4)
    keep = {"0.weight": torch.tensor(DIED), "1.weight": torch.zeros(1, 2, dtype=torch.bool)}
    none = {name: torch.zeros_like(where) for name, where in keep.items()}
    Exchange(Fixed(), lambda _: keep, lambda *_: none).after(16, 7)(step)
    assert step.hold.keep["0.weight"].tolist() == [[1, 0, 1, 1, 0, 0]]
    assert step.hold.keep["1.weight"].tolist() == [[1, 0]]


@pytest.mark.parametrize("wrapped", [False, True])
def test_moments_are_zeroed_where_the_mask_changed_and_nowhere_else(wrapped: bool) -> None:
    model = layer(1.0, 2.0, 3.0)
    optimizer = (
        SAM(model.parameters(), torch.optim.AdamW, lr=0.1)
        if wrapped
        else torch.optim.AdamW(model.parameters())
    )
    inner = optimizer.base if wrapped else optimizer
    inner.state[model.weight] = {
        "step": torch.tensor(3.0), "exp_avg": torch.ones(1, 3), "exp_avg_sq": torch.full((1, 3), 2.0), "name": "w",
    }  # fmt: skip
    reset_(optimizer, {model.weight: torch.tensor([[False, True, False]])})
    state = inner.state[model.weight]
    assert state["exp_avg"].tolist() == [[1.0, 0.0, 1.0]]
    assert state["exp_avg_sq"].tolist() == [[2.0, 0.0, 2.0]]
    assert float(state["step"]) == 3.0


def test_each_exchange_draws_for_itself_from_the_trainings_seed() -> None:
    seen: list[list[int]] = []

    def look(moment: Moment) -> dict[str, Tensor]:
        seen.append(torch.randint(1000, (3,), generator=moment.draws).tolist())
        return {"weight": torch.tensor(DIED)}

    made = Exchange(Fixed(), look, lambda *_: {"weight": torch.tensor(GROWN)}).after(16, 7)
    for index in (4, 8, 8):
        made(at(layer(*[1.0] * 6), ALIVE, index=index))
    assert seen == [torch.randint(1000, (3,), generator=seeded(7 + i)).tolist() for i in (4, 8, 8)]


# refusing to do nothing


METHODS = {
    "SET": SET(every=7, decay="constant"), "RigL": RigL(every=7), "DSR": DSR(every=7), "ITOP": ITOP(every=7, until=0.7),
    "MEST": MEST(every=7, halve=0.7, until=0.7), "MEST em&s": MEST(every=7, mode="em&s", halve=0.7, until=0.7),
}  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
def test_an_interval_that_never_ends_inside_the_training_is_refused(name: str) -> None:
    method, model, data = METHODS[name], world.network(), world.points()[0]
    who = type(method).__name__  # exchanges end after step 6.75 or 6.3 of 9, after 7.5 or 7 of 10
    words = rf"{who} would never exchange a weight: every=7, but the training has 9 steps and exchanges end after step 6"
    with pytest.raises(InputError, match=words):
        method.begin(model, data, steps=9, rng=seeded(0))
    method.begin(model, data, steps=10, rng=seeded(0))


@pytest.mark.parametrize(
    "method",
    [
        SET(budget=ERK(0.7), every=4, rate=0.001), RigL(budget=ERK(0.7), every=4, rate=0.001),
        DSR(budget=ERK(0.7), every=4, rate=0.001), MEST(budget=Uniform(0.7), every=4, ratio=0.001),
        SET(budget=Uniform(0.0), every=4), SET(budget=ERK(0.7), every=27),  # the cosine ends in 0 at step 27
    ],
    ids=["set", "rigl", "dsr", "mest", "dense", "at the cosine's end"],
)  # fmt: skip
def test_a_first_exchange_without_a_weight_is_refused(method: Any) -> None:
    with pytest.raises(
        InputError, match=rf"exchanged no weight after step {method.every}, its first: the share"
    ):
        train(method)


def test_a_static_mask_is_the_random_start_of_an_exchange_and_stays() -> None:
    model, masks = train(StaticMask(budget=ERK(0.7)))
    assert not changes(masks)
    assert len(masks) == STEPS + 1
    begun, _ = SET(budget=ERK(0.7), every=4).begin(
        world.network(), world.points()[0], steps=STEPS, rng=seeded(5)
    )
    assert same(masks[0], begun)
    assert all(not weight[~alive].any() for _, weight, alive in masks[0].match(model))
    sizes = counts(StaticMask(budget=Global(0.9)).begin(model, world.points()[0], steps=1, rng=seeded(5))[0])
    assert sizes == counts(Mask.of(model))  # a sparse model keeps its own


def test_the_start_is_the_models_own_mask_where_it_is_sparse() -> None:
    model, data = world.model(sparse=True), world.points()[0]
    own = Mask.of(model)
    names = [name for name, _, _ in Scope().layers(model)]
    found = start(model, data, Uniform(0.9), Scope(), seeded(0))
    assert sorted(found.keep) == sorted(names)
    for name, alive in found.keep.items():
        assert torch.equal(alive, own.keep.get(name, torch.ones_like(alive)))
    outside = next(iter(own.keep))
    with pytest.raises(InputError, match=rf"sparse in {outside}, which is out of scope"):
        start(model, data, Uniform(0.9), Scope(skip=(outside,)), seeded(0))


def test_no_generator_is_refused() -> None:
    for method in (StaticMask(), *METHODS.values()):
        with pytest.raises(InputError, match="rng must be a torch.Generator"):
            method.begin(world.network(), world.points()[0], steps=STEPS, rng=None)


@pytest.mark.parametrize(("steps", "every"), [(1000, 100), (134, 100), (133, 9), (28, 2), (3, 1)])
def test_the_usual_interval_shortens_with_the_training(steps: int, every: int) -> None:
    due = []
    exchange = Exchange(RigL(), drop=lambda at: {}, grow=lambda at, dropped: {})
    object.__setattr__(exchange, "_change_", lambda at: due.append(at.step.index) or 1)
    change = exchange.after(steps, 0)
    for index in range(1, steps + 1):
        change(SimpleNamespace(index=index))  # type: ignore[arg-type]
    assert due == list(range(every, int(0.75 * steps) + 1, every))
    with pytest.raises(InputError, match="would never exchange a weight: every=100"):
        Exchange(RigL(every=100), drop=lambda at: {}, grow=lambda at, dropped: {}).after(133, 0)
