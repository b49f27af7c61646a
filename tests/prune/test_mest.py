from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.contract import world
from tests.prune.dynamic import STEPS, assert_dead_weights_are_zero, assert_resumes, changes, counts, train
from unweave import Mask, seeded
from unweave.errors import InputError
from unweave.fit import Step
from unweave.prune import MEST, Uniform

EM = MEST(budget=Uniform(0.7), every=4, ratio=0.1)
EMS = MEST(budget=Uniform(0.7), every=4, ratio=0.1, mode="em&s")


def test_em_keeps_the_budget_and_mutates_less_and_less() -> None:
    model, masks = train(EM)
    assert all(counts(m) == counts(masks[0]) for m in masks)
    assert_dead_weights_are_zero(model, masks[-1])
    name = next(iter(masks[0].keep))
    flips = {i: int((masks[i].keep[name] & ~masks[i - 1].keep[name]).sum()) for i in changes(masks)}
    size = masks[0].keep[name].numel()
    for i, n in flips.items():
        ratio = 0.1 if i / STEPS <= 0.5625 else 0.05 if i / STEPS <= 0.75 else 0.0
        assert n == int(ratio * size)
    assert len(set(flips.values())) == 2


def test_em_and_s_goes_over_the_budget_by_the_ratio_and_ends_within() -> None:
    _, masks = train(EMS)
    exact = counts(train(EM)[1][0])
    for name, alive in masks[0].keep.items():
        assert int(alive.sum()) == exact[name] + int(0.1 * alive.numel())
    assert counts(masks[-1]) == exact
    assert max(sum(counts(m).values()) for m in masks) == sum(counts(masks[0]).values())


def test_the_surplus_goes_even_if_no_exchange_is_due_at_the_end() -> None:
    late = MEST(budget=Uniform(0.7), every=35, ratio=0.1, mode="em&s", until=1.0, halve=1.0)
    assert counts(train(late)[1][-1]) == counts(train(EM)[1][0])


def test_drops_by_size_and_lambda_times_gradient() -> None:
    # |w| + lambda |g| = 1 + 6, 2 + 0, 3 + 2, 4 + 0 for lambda 2; without it the first would die
    model = torch.nn.Linear(8, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, -2.0, 3.0, -4.0, 0, 0, 0, 0]]))
    hold = Mask({"weight": torch.tensor([[True] * 4 + [False] * 4])})
    slopes = {"weight": torch.tensor([[-3.0, 0.0, 1.0, 0.0, 9.0, 9.0, 9.0, 9.0]])}
    for influence, dies in ((2.0, 1), (0.5, 1), (0.0, 0)):
        asked: list[int] = []
        step = Step(
            model, torch.optim.SGD(model.parameters(), 0.1), 4, 0, 0.0, False, hold,
            lambda asked=asked: asked.append(1) or slopes,
        )  # fmt: skip
        method = MEST(budget=Uniform(0.5), every=4, ratio=0.125, influence=influence)
        method.begin(model, world.points()[0], steps=40, rng=seeded(0))[1](step)
        assert step.hold.keep["weight"][0, :4].tolist() == [i != dies for i in range(4)]
        assert int(step.hold.keep["weight"].sum()) == 4
        assert len(asked) == (influence > 0)  # without influence no pass is spent


@pytest.mark.parametrize(
    ("index", "room"), [(1, 10), (56, 10), (57, 5), (75, 5), (76, 0), (100, 0)]
)  # fmt: skip
def test_the_ratio_halves_and_ends(index: int, room: int) -> None:
    alive = torch.arange(100) < 30
    assert MEST(budget=Uniform(0.7), ratio=0.1)._room(alive, 30, index, 100) == room
    assert MEST(budget=Uniform(0.7), ratio=0.1, halve=1.0, until=1.0)._room(alive, 30, 100, 100) == 0
    assert (
        MEST(budget=Uniform(0.7), ratio=0.1, halve=0.5)._room(alive, 30, 50, 100) == 10
    )  # from then on, not at
    assert MEST(budget=Uniform(0.7), ratio=0.1)._room(alive, 4, 1, 100) == 4  # no more than live
    assert MEST(budget=Uniform(0.7), ratio=0.1)._room(alive, 94, 1, 100) == 3  # no more than half of the dead


def test_influence_of_gradients_changes_what_is_dropped() -> None:
    plain = train(EM)[1]
    told = train(MEST(budget=Uniform(0.7), every=4, ratio=0.1, influence=10.0))[1]
    assert counts(told[-1]) == counts(plain[-1])
    assert not all(torch.equal(told[4].keep[n], plain[4].keep[n]) for n in plain[4].keep)


@pytest.mark.parametrize("method", [EM, EMS], ids=["em", "em&s"])
def test_resumes_to_the_same_bits(method: MEST, tmp_path: Path) -> None:
    assert_resumes(method, tmp_path)


@pytest.mark.parametrize(
    "bad", [{"ratio": 0.0}, {"ratio": 0.2}, {"every": 0}, {"influence": -1.0}, {"halve": 0.9}]
)
def test_refuses(bad: dict[str, float]) -> None:
    with pytest.raises(InputError, match="MEST"):
        MEST(**bad)
