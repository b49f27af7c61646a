"""`Supervised.train_` for a part of an epoch, with another optimiser, and with somebody looking on."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch.optim import SGD

from tests.contract import world
from unweave import seeded
from unweave.fit import recording


def trained(**how):
    model, (train, _) = world.RECIPE.initial(seeded(0)), world.points()  # 90 examples: 6 steps an epoch
    with recording() as fits:
        world.RECIPE.train_(model, train, lr=0.1, rng=seeded(1), **how)
    return model, fits[0].steps


@pytest.mark.parametrize(("epochs", "steps"), [(2, 12), (2.0, 12), (1.5, 9), (0.5, 3), (0.01, 1), (2.26, 14)])
def test_takes_so_many_steps(epochs: float, steps: int) -> None:
    assert trained(epochs=epochs)[1] == steps


def test_the_whole_schedule_falls_within_the_part() -> None:
    rates: list[float] = []
    trained(epochs=1.5, after_step=lambda step: rates.append(step.optimizer.param_groups[0]["lr"]))
    assert len(rates) == 9
    assert rates[-1] == pytest.approx(0.0, abs=1e-12)
    begun: list[float] = []
    trained(epochs=1.5, of=6, after_step=lambda step: begun.append(step.optimizer.param_groups[0]["lr"]))
    assert min(begun) > 0.05


def test_whole_epochs_are_as_they_were_whoever_looks_on() -> None:
    plain, watched = trained(epochs=2)[0], trained(epochs=2, after_step=lambda step: None)[0]
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), watched.parameters(), strict=True))


def test_another_optimiser_takes_the_place_of_the_recipes() -> None:
    made: list[SGD] = []

    def make(parameters, lr):
        made.append(SGD(parameters, lr=lr, momentum=0.5))
        return made[-1]

    other, _ = trained(epochs=1, optimizer=make)
    assert made[0].defaults["momentum"] == 0.5
    assert made[0].defaults["lr"] == 0.1
    same = trained(epochs=1, optimizer=partial(SGD, momentum=0.9, weight_decay=5e-4, nesterov=True))[0]
    plain = trained(epochs=1)[0]
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), same.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(plain.parameters(), other.parameters(), strict=True))


def test_stops_where_the_looker_on_says() -> None:
    def stop(step) -> None:
        step.stop = step.index == 2

    assert trained(epochs=1.5, after_step=stop)[1] == 2
    assert trained(epochs=1.5)[1] == 9
