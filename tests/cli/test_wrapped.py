"""Optimisers that wrap another wrap the recipe's own, and what trained is told."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.optim import SGD, AdamW, Optimizer

from tests.jobs.subjects import RECIPE, subject
from unweave import Supervised, seeded
from unweave.cli._optimizers import optimizer
from unweave.cli._recipes import changed, trained_with
from unweave.errors import InputError
from unweave.fit import recording
from unweave.fit.named import named_optimizer, trained_by
from unweave.fit.own_loop import OwnLoop
from unweave.optim import SAM, LookSAM

ADAMW = Supervised(
    network=RECIPE.network, epochs=2, lr=3e-3, init_seed=0, optimizer=partial(AdamW, weight_decay=1e-2)
)
PLAIN = Supervised(network=RECIPE.network, epochs=2, lr=0.05, init_seed=0, momentum=0.5, weight_decay=1e-3)


def asked(base: str = "", **more: Any) -> Any:
    return SimpleNamespace(base=base, sparsity=None, **more)


def weights(recipe: Any) -> torch.Tensor:
    model = recipe.build(subject().train, rng=seeded(0))
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("recipe", [ADAMW, PLAIN], ids=["adamw", "sgd"])
@pytest.mark.parametrize("name", ["sam", "asam", "look-sam", "perp-grad"])
def test_a_wrapper_without_a_radius_is_the_recipe_bit_for_bit(recipe: Supervised, name: str) -> None:
    made = trained_with(recipe, name, asked())
    stepper = made.stepper([torch.nn.Parameter(torch.zeros(2))], lr=recipe.lr)
    own = recipe.stepper([torch.nn.Parameter(torch.zeros(2))], lr=recipe.lr)
    assert type(stepper.base) is type(own)
    for key, value in own.param_groups[0].items():
        assert key == "params" or stepper.param_groups[0][key] == value
    if name == "sam":
        still = changed(made, optimizer=partial(made.optimizer, rho=0.0))
        assert torch.equal(weights(still), weights(recipe))


def test_a_base_that_is_named_is_taken() -> None:
    made = optimizer(SAM, None, ADAMW, "sgd")
    assert made is not None
    assert type(made([torch.nn.Parameter(torch.zeros(2))], lr=0.1).base) is SGD


def test_what_cannot_be_wrapped_is_refused() -> None:
    around = Supervised(network=RECIPE.network, optimizer=partial(SAM, rho=0.1))
    with pytest.raises(InputError, match="the recipe's optimiser, SAM, wraps another already"):
        optimizer(LookSAM, None, around, "")
    with pytest.raises(InputError, match="this recipe, a OwnLoop, shows none"):
        optimizer(SAM, None, OwnLoop(function=lambda train, seed: None), "")
    with pytest.raises(InputError, match="the recipe is a function that trains, and has no optimizer to set"):
        changed(OwnLoop(function=lambda train, seed: None), optimizer=SGD)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (partial(SGD, lr=0.5, momentum=0.9), "SGD (momentum 0.9), peak learning rate 0.5"),
        (
            partial(SAM, lr=0.003, base=AdamW, rho=0.05, weight_decay=0.01),
            "SAM (rho 0.05) around AdamW (weight_decay 0.01), peak learning rate 0.003",
        ),
    ],
)
def test_an_optimiser_in_words(make: Any, words: str) -> None:
    assert named_optimizer(make([torch.nn.Parameter(torch.zeros(2))])) == words


def test_groups_of_several_rates_and_a_schedule() -> None:
    a, b = (torch.nn.Parameter(torch.zeros(2)) for _ in range(2))
    made: Optimizer = SGD([{"params": [a], "lr": 0.1}, {"params": [b], "lr": 0.01}], lr=1.0)
    torch.optim.lr_scheduler.LambdaLR(made, lambda step: 0.001)
    assert named_optimizer(made) == "SGD, peak learning rate 0.01 and 0.1"


def test_a_training_records_what_trained_and_a_recipe_foretells_it() -> None:
    made = trained_with(ADAMW, "sam", asked())
    with recording() as fits:
        made.build(subject().train, rng=seeded(0))
    assert [f"{f.by}, 2 epochs" for f in fits] == [trained_by(made)]
    assert "SAM (rho 0.05) around AdamW (weight_decay 0.01), peak learning rate 0.003" in fits[0].by
    assert trained_by(OwnLoop(function=lambda train, seed: None)) == ""
