"""Recipes refuse, from Python too, what would do nothing."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from torch.optim import AdamW

from tests.contract import world
from unweave import Supervised
from unweave.errors import InputError
from unweave.io.transformers_folder import TransformersRecipe
from unweave.prune import GMP, Prune


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
