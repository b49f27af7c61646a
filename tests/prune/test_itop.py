from __future__ import annotations

import pytest
import torch

from tests.prune.dynamic import STEPS, train
from unweave import Mask
from unweave.errors import InputError
from unweave.prune import ERK, ITOP, SET, Explored, RigL


@pytest.mark.parametrize(("grow", "cls"), [("random", SET), ("gradient", RigL)])
def test_is_the_method_with_its_settings(grow: str, cls: type) -> None:
    own, masks = train(ITOP(grow=grow, budget=ERK(0.7), every=4))
    other, theirs = train(cls(budget=ERK(0.7), every=4, rate=0.5, until=1.0))
    assert all(torch.equal(p, q) for p, q in zip(own.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(masks[-1].keep[n], theirs[-1].keep[n]) for n in masks[-1].keep)


def test_counts_what_was_ever_alive() -> None:
    explored = Explored()
    assert explored.rate == 0
    explored.add(Mask({"w": torch.tensor([True, False, False, False])}))
    explored.add(Mask({"w": torch.tensor([False, True, False, False])}))
    assert explored.rate == 0.5


def test_short_intervals_explore_more() -> None:
    rates = []
    for every in (2, 12, STEPS // 2):
        explored = Explored()
        _, masks = train(ITOP(budget=ERK(0.7), every=every, explored=explored))
        ever = {n: torch.stack([m.keep[n] for m in masks]).any(0) for n in masks[0].keep}
        total = sum(e.numel() for e in ever.values())
        assert explored.rate == pytest.approx(sum(int(e.sum()) for e in ever.values()) / total)
        rates.append(explored.rate)
    assert rates[0] > rates[1] > rates[2] > 0.3


def test_refuses() -> None:
    with pytest.raises(InputError, match="ITOP.grow"):
        ITOP(grow="north")
