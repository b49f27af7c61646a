from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch

from tests.contract import world
from tests.unlearn.test_unprune import Still, assert_equal, calls_of, line, request, sparse, tiny
from unweave import Mask, seeded
from unweave.errors import InputError
from unweave.fit import recording, steps_of
from unweave.unlearn import Continue, ShortRetrain
from unweave.unlearn._heal import fading
from unweave.unlearn._muon import Muon


def test_exact() -> None:
    # from (1, 2, 5, -6) training goes to (1, 7, 5, 1); the two largest are kept, as many as the model has
    recipe = Still((1.0, 2.0, 5.0, -6.0), (0.0, 5.0, 0.0, 7.0))
    edited = ShortRetrain(recipe=recipe, recover_epochs=0).apply(
        line(4.0, 0.0, 0.0, 3.0), request(), rng=seeded(0)
    )
    assert edited.weight.flatten().tolist() == [0, 7, 5, 0]


def test_limit_of_the_whole_budget_is_the_recipe() -> None:
    recipe, data = tiny(), world.request()
    expected = recipe.initial(seeded(0))
    rng = seeded(5)
    recipe.train_(expected, data.retain, epochs=6, lr=0.1, rng=rng)
    expected = recipe.prune.apply(expected, data.retain, rng=rng)
    method = ShortRetrain(recipe=recipe, epochs=6, lr=0.1, recover_epochs=0)
    assert_equal(expected, method.apply(sparse(recipe), data, rng=seeded(5)))


def test_beginning_of_a_longer_schedule_differs_from_a_squeezed_one() -> None:
    recipe, data = tiny(), world.request()
    model = sparse(recipe)
    squeezed, begun, same = (
        ShortRetrain(recipe=recipe, epochs=2, of=of).apply(model, data, rng=seeded(0)) for of in (None, 60, 2)
    )
    assert_equal(squeezed, same)
    start = recipe.initial(seeded(0))
    moved = [
        sum(
            float((p - q).detach().square().sum())
            for p, q in zip(m.parameters(), start.parameters(), strict=True)
        )
        for m in (squeezed, begun)
    ]
    assert moved[1] > 1.1 * moved[0]


def test_continue_is_the_recipes_training() -> None:
    recipe, data = tiny(), world.request()
    model = sparse(recipe)
    expected = sparse(recipe)
    recipe.train_(expected, data.retain, epochs=2, lr=0.1, rng=seeded(4), hold=Mask.of(model))
    assert_equal(expected, Continue(recipe=recipe).apply(model, data, rng=seeded(4)))


def test_short_retrain_reads_only_the_mask() -> None:
    recipe, data = tiny(), world.request()
    model = sparse(recipe)
    other = sparse(recipe)
    with torch.no_grad():
        for p in other.parameters():
            p.mul_(3)
    method = ShortRetrain(recipe=recipe, epochs=2)
    assert_equal(method.apply(model, data, rng=seeded(0)), method.apply(other, data, rng=seeded(0)))


def test_refuses() -> None:
    recipe = tiny()
    for kind, bad in (
        (ShortRetrain, {"epochs": 0}),
        (ShortRetrain, {"fraction": 0.0}),
        (ShortRetrain, {"recover_epochs": -1}),
        (Continue, {"epochs": 0}),
        (Continue, {"lr": 0.0}),
    ):
        with pytest.raises(InputError, match=next(iter(bad))):
            kind(recipe=recipe, **bad)


def test_what_the_recipe_is_asked_for() -> None:
    recipe, seen = calls_of(Still((1.0, 2.0, 5.0, -6.0), (0.0, 5.0, 0.0, 7.0)))
    method = ShortRetrain(recipe=recipe, epochs=3, lr=0.4, of=9, recover_epochs=2, recover_lr=0.07)
    edited = method.apply(line(4.0, 0.0, 0.0, 3.0), request(), rng=seeded(0))
    hold = seen[1].pop("hold")
    assert seen == [
        {"epochs": 3, "lr": 0.4, "of": 9, "examples": 6},
        {"epochs": 2, "lr": 0.07, "examples": 6},
    ]
    assert hold.keep["weight"].flatten().tolist() == [False, True, True, False]
    assert edited.weight.flatten().tolist() == [0, 12, 5, 7]  # this recipe moves what it is told to hold
    seen.clear()
    Continue(recipe=recipe, epochs=5, lr=0.9).apply(line(4.0, 0.0, 0.0, 3.0), request(), rng=seeded(0))
    assert seen[0].pop("hold").keep["weight"].flatten().tolist() == [True, False, False, True]
    assert seen == [{"epochs": 5, "lr": 0.9, "examples": 6}]


LONG = replace(world.FRESH, epochs=40)


def test_of_a_dense_model_reads_no_weight() -> None:
    data, model, other = world.request(), world.model(), world.model()
    with torch.no_grad():
        for p in other.parameters():
            p.normal_(generator=seeded(8))
    for recipe in (LONG, replace(LONG, init_seed=3)):
        method = ShortRetrain(recipe=recipe)
        assert_equal(method.apply(model, data, rng=seeded(0)), method.apply(other, data, rng=seeded(0)))


def test_dense_defaults_are_muon_under_decay_for_three_sixteenths() -> None:
    data, model, rng = world.request(), world.model(), seeded(4)
    expected = LONG.initial(rng)
    steps = round(3 / 16 * 40 * steps_of(model, data.retain))
    LONG.train_(
        expected, data.retain, epochs=7.5, lr=0.1, rng=rng,
        optimizer=partial(Muon, adam_lr=0.01, newton_schulz=5), after_step=fading(1.4, steps),
    )  # fmt: skip
    with recording() as fits:
        edited = ShortRetrain(recipe=LONG).apply(model, data, rng=seeded(4))
    assert_equal(expected, edited)
    assert [fit.steps for fit in fits] == [steps]


def test_where_the_recipe_fixes_the_start_it_trains_by_its_own_optimiser_from_there() -> None:
    data, model, recipe = world.request(), world.model(), replace(LONG, init_seed=3, lr=0.2)
    rng = seeded(4)
    expected = recipe.initial(rng)
    recipe.train_(expected, data.retain, epochs=7.5, lr=0.2, rng=rng)
    assert_equal(expected, ShortRetrain(recipe=recipe).apply(model, data, rng=seeded(4)))
    own = ShortRetrain(recipe=replace(recipe, init_seed=None), optimizer="recipe")
    muon = ShortRetrain(recipe=recipe, optimizer="muon")
    for other in (own, muon):
        with pytest.raises(AssertionError):
            assert_equal(expected, other.apply(model, data, rng=seeded(4)))


def test_refuses_what_would_do_nothing() -> None:
    make = partial(ShortRetrain, recipe=LONG)
    for bad, why in (
        ({"epochs": 3, "fraction": 0.5}, "fraction=0.5 would do nothing beside epochs"),
        ({"of": 9}, "of needs epochs"),
        ({"optimizer": "recipe", "decay": 1.0}, "decay=1.0 would do nothing with optimizer"),
    ):
        with pytest.raises(InputError, match=why):
            make(**bad)
    data, model = world.request(), world.model()
    with pytest.raises(InputError, match="recover_epochs=1 would do nothing for a dense model"):
        make(recover_epochs=1).apply(model, data, rng=seeded(0))
    with pytest.raises(InputError, match=r"adam_lr=0\.1 would do nothing where the recipe fixes"):
        make(recipe=replace(LONG, init_seed=0), adam_lr=0.1).apply(model, data, rng=seeded(0))
    with pytest.raises(InputError, match="another network"):
        make(recipe=replace(LONG, network=lambda: torch.nn.Linear(8, 3))).apply(model, data, rng=seeded(0))


def test_running_statistics_begin_afresh_with_their_count() -> None:
    data, model = world.request(), world.model(batch_norm=True)
    edited = ShortRetrain(recipe=replace(world.NORMED, init_seed=None, epochs=40)).apply(
        model, data, rng=seeded(0)
    )
    assert int(model[2].num_batches_tracked) == 36  # 6 epochs of 6 batches
    assert int(edited[2].num_batches_tracked) == 38  # 3/16 of 40 epochs of 5
    model[2].running_mean.fill_(1e6)
    other = ShortRetrain(recipe=replace(world.NORMED, init_seed=None, epochs=40)).apply(
        model, data, rng=seeded(0)
    )
    assert torch.equal(other[2].running_mean, edited[2].running_mean)


def test_frozen_parameters_stay_the_models() -> None:
    data, model = world.request(), world.model()
    model[1].bias.requires_grad_(False)
    edited = ShortRetrain(recipe=LONG).apply(model, data, rng=seeded(0))
    assert torch.equal(edited[1].bias, model[1].bias)
    assert not torch.equal(edited[1].weight, model[1].weight)
