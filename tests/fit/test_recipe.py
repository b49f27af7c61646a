"""Recipes train at the rates they name, and refuse, from Python too, what would do nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from math import cos, pi
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from tests.contract import world
from unweave import Mask, Supervised, seeded
from unweave.embedded.digits import of_tensors
from unweave.errors import InputError
from unweave.io.transformers_folder import TransformersRecipe
from unweave.prune import GMP, Global, Prune


@pytest.mark.parametrize(
    "kind", [partial(Supervised, network=world.network), partial(TransformersRecipe, folder=Path("vit"))]
)
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sparse": GMP(), "prune": Prune()}, "both a sparse training and a pruning method"),
        ({"recover_epochs": 2}, "recover_epochs is 2, but nothing is pruned"),
        ({"optimizer": AdamW, "weight_decay": 0.01}, r"weight_decay of its own.*partial\(\.\.\., weight_decay=0\.01\)"),
        ({"epochs": 0}, "epochs must be a whole number at least 1; got 0"),
        ({"lr": float("nan")}, "lr must be above 0; got nan"),
        ({"recover_epochs": -1}, "recover_epochs must be a whole number at least 0; got -1"),
        ({"prune": 0.9}, r"prune must be an Edit \(with apply\), or None; got 0.9"),
    ],
)  # fmt: skip
def test_what_would_do_nothing_is_refused(kind: Any, given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        kind(**given)


def test_a_choice_is_a_choice() -> None:
    with pytest.raises(InputError, match='Did you mean "cosine"'):
        Supervised(network=world.network, schedule="cosin")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"momentum must be at least 0 and below 1; got 1"):
        Supervised(network=world.network, momentum=1)
    with pytest.raises(InputError, match=r"an optimizer and momentum and weight_decay of its own"):
        Supervised(network=world.network, optimizer=AdamW, momentum=0.5, weight_decay=0.0)


def test_a_recipe_can_lose_its_pruning() -> None:
    recipe = Supervised(network=world.network, prune=Prune(), recover_epochs=3)
    assert replace(recipe, prune=None, recover_epochs=0).prune is None
    with pytest.raises(InputError, match="nothing is pruned"):
        replace(recipe, prune=None)


class Rates:
    """Makes SGD, and writes down the learning rate of every step of each training."""

    def __init__(self) -> None:
        self.seen: list[list[float]] = []

    def __call__(self, parameters: Iterable[Tensor], lr: float) -> Optimizer:
        made, seen = SGD(parameters, lr=lr), list[float]()
        self.seen.append(seen)
        made.register_step_post_hook(lambda o, *_: seen.append(o.param_groups[0]["lr"]))
        return made


DATA = of_tensors(torch.randn(24, 4, generator=seeded(0)), torch.arange(24) % 3, batch_size=8)


def falling(peak: float, steps: int, rise: int) -> list[float]:
    rates = [(step + 1) / rise for step in range(rise)]
    rates += [0.5 * (1 + cos(pi * (step - rise) / (steps - rise))) for step in range(rise, steps)]
    return [peak * rate for rate in rates]


def test_what_is_pruned_recovers_at_its_own_rate_under_its_mask() -> None:
    rates = Rates()
    recipe = Supervised(
        network=partial(nn.Linear, 4, 3), epochs=14, lr=0.1, optimizer=rates, prune=Prune(budget=Global(0.5)),
        recover_epochs=20, recover_lr=0.03,
    )  # fmt: skip
    model = recipe.build(DATA, rng=seeded(1))
    first, second = rates.seen
    assert first == pytest.approx(falling(0.1, 42, rise=2))
    assert second == pytest.approx(falling(0.03, 60, rise=3))
    assert Mask.of(model).density() == 0.5


def test_the_beginning_of_a_longer_training_warms_up_in_its_own_time() -> None:
    rates = Rates()
    recipe = Supervised(network=partial(nn.Linear, 4, 3), optimizer=rates)
    how = {"epochs": 20, "lr": 0.1, "rng": seeded(1)}
    recipe.train_(nn.Linear(4, 3), DATA, **how, of=40)
    assert rates.seen[0] == pytest.approx(falling(0.1, 120, rise=3)[:60])
    recipe.train_(nn.Linear(4, 3), DATA, **how, of=10)
    assert rates.seen[1] == pytest.approx(falling(0.1, 60, rise=3))
    replace(recipe, schedule="constant").train_(nn.Linear(4, 3), DATA, **how)
    assert rates.seen[2] == [0.1] * 60
    with pytest.raises(InputError, match="both `hold` and `sparse`"):
        recipe.train_(nn.Linear(4, 3), DATA, **how, hold=Mask({}), sparse=GMP())
