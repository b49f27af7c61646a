from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Generator, nn

from tests.contract import world
from unweave import Data, Mask, Request, seeded
from unweave.embedded.nets import mlp
from unweave.errors import EmptyDataError, InputError
from unweave.prune import Global, Prune
from unweave.unlearn import Retrain


def test_is_the_recipe_on_the_retain_set() -> None:
    model, request = world.model(), world.request()
    edited = Retrain(recipe=world.RECIPE).apply(model, request, rng=seeded(7))
    direct = world.RECIPE.build(request.retain, rng=seeded(7))
    assert all(torch.equal(p, q) for p, q in zip(edited.parameters(), direct.parameters(), strict=True))


def test_owes_nothing_to_forget_set_or_model() -> None:
    request = world.request()
    other = Request(request.heldout, request.retain, request.forget)
    torn = world.model()
    with torch.no_grad():
        for p in torn.parameters():
            p.mul_(-3).add_(1)
    a = Retrain(recipe=world.RECIPE).apply(world.model(), request, rng=seeded(1))
    b = Retrain(recipe=world.RECIPE).apply(torn, other, rng=seeded(1))
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def test_pruned_recipe_gives_a_pruned_model() -> None:
    recipe = replace(world.RECIPE, prune=Prune(budget=Global(0.5)), recover_epochs=1)
    edited = Retrain(recipe=recipe).apply(world.model(sparse=True), world.request(), rng=seeded(0))
    assert Mask.of(edited).density() == pytest.approx(0.5)


def test_frozen_layer_is_taken_over_and_trained_around() -> None:
    model, request = world.model(), world.request()
    model[1].weight.requires_grad_(False)
    edited = Retrain(recipe=world.RECIPE).apply(model, request, rng=seeded(0))
    assert torch.equal(edited[1].weight, model[1].weight)
    assert not edited[1].weight.requires_grad
    accuracy = (
        (edited(request.heldout.examples.tensors[0]).argmax(1) == request.heldout.examples.tensors[1])
        .double()
        .mean()
    )
    assert accuracy > 0.7  # the other layer was trained for this one: chance is 1/3


@dataclass(frozen=True)
class Own:
    """A recipe that is not ours."""

    network: Any

    def build(self, data: Data, *, rng: Generator) -> nn.Module:
        torch.randperm(3, generator=rng)
        return self.network()


def test_refuses() -> None:
    model, request = world.model(), world.request()
    with pytest.raises(EmptyDataError, match="retain"):
        Retrain(recipe=world.RECIPE).apply(
            model, Request(request.forget, request.retain.subset([]), request.heldout), rng=seeded(0)
        )
    for recipe in (world.RECIPE, Own(partial(mlp, 8, 24, 3))):
        with pytest.raises(InputError, match="makes a dense one"):
            Retrain(recipe=recipe).apply(world.model(sparse=True), request, rng=seeded(0))
    for recipe in (
        replace(world.RECIPE, network=partial(mlp, 8, 24, 24, 3)),
        Own(partial(mlp, 8, 24, 24, 3)),
    ):
        with pytest.raises(InputError, match="another network"):
            Retrain(recipe=recipe).apply(model, request, rng=seeded(0))
    model[1].bias.requires_grad_(False)
    with pytest.raises(InputError, match=r"frozen: 1\.bias"):
        Retrain(recipe=Own(partial(mlp, 8, 24, 3))).apply(model, request, rng=seeded(0))
