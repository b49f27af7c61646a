"""SISA: shards and slices of whole models; going back to before the deleted data, and training on without them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch

from tests.contract import world
from unweave import Data, Supervised, seeded
from unweave.errors import InputError
from unweave.prune import Global, Prune, StaticMask
from unweave.random import draw_seed
from unweave.tasks import accuracy
from unweave.unlearn import SISA
from unweave.unlearn.exact import RetrainingDue, prove
from unweave.unlearn.exact.service import same_bits, stage_seed

RECIPE = replace(world.RECIPE, epochs=4, init_seed=None)
SMALL = partial(SISA, recipe=RECIPE, shards=2, slices=3)


def rest(gone: set[str]) -> Data[Any]:
    data, _ = world.points()
    return data.subset([i for i in range(len(data)) if str(i) not in gone])


def test_a_stage_by_hand() -> None:
    """Stage by stage with the recipe alone: 2 e / (R + 1) epochs each, on the union of the slices so far."""
    data, _ = world.points()
    model = SMALL(shards=1).build(data, rng=seeded(3))
    assert SMALL().each == 2
    seed = draw_seed(seeded(3))
    places = model.service.slices.places
    net = None
    for j in range(3):
        rng = seeded(stage_seed(seed, 0, tuple(range(j + 1))))
        net = RECIPE.initial(rng) if net is None else net
        seen = [i for i in range(90) if places[str(i)][1] <= j]
        RECIPE.train_(net, data.subset(seen), epochs=2, lr=RECIPE.lr, rng=rng)
        assert not same_bits(net.state_dict(), model.service.states[0, tuple(range(j + 1))])
    x = next(data.batches())[0]
    assert torch.equal(model(x), net.eval()(x))


@pytest.mark.parametrize("slice_", range(3))
@pytest.mark.parametrize("normed", [False, True])
def test_a_deletion_retrains_from_the_slice_on_to_the_bits_of_a_fresh_run(slice_: int, normed: bool) -> None:
    recipe = replace(world.NORMED, epochs=4) if normed else RECIPE
    data, _ = world.points()
    how = SMALL(recipe=recipe)
    model = how.build(data, rng=seeded(0))
    gone = {next(i for i, place in model.service.slices.places.items() if place == (1, slice_))}
    left, done = model.forget(gone, data, retrain="all")
    assert done.trained == tuple((1, tuple(range(j + 1))) for j in range(slice_, 3))
    fresh = how.build(rest(gone), rng=seeded(0))
    assert fresh.service.states.keys() == left.service.states.keys()
    assert not any(same_bits(left.service.states[k], fresh.service.states[k]) for k in fresh.service.states)
    assert prove(left.service, rest(gone)).identical
    state, other = left.state_dict(), fresh.state_dict()
    assert all(torch.equal(state[n], other[n]) for n in state)


def test_without_retraining_the_stage_before_serves_until_the_first_slices_are_hit() -> None:
    data, heldout = world.points()
    model = SMALL().build(data, rng=seeded(0))
    assert accuracy(model, heldout) > 60
    where = model.service.slices.places
    left, done = model.forget([next(i for i, p in where.items() if p == (0, 2))])
    assert done.served == ((3, 2), (3, 3))
    assert prove(left.service, data).identical
    left, _ = left.forget([next(i for i, p in where.items() if p == (0, 0))])
    assert len(left.members) == 1
    with pytest.raises(RetrainingDue, match="all 2 shards are dead"):
        left.forget([next(i for i, p in where.items() if p == (1, 0))])


def test_shards_never_see_each_others_data() -> None:
    data, _ = world.points()
    model = SMALL().build(data, rng=seeded(0))
    own = {i for i, (shard, _) in model.service.slices.places.items() if shard == 0}
    part = rest({str(i) for i in range(90)} - own)
    whole = SMALL().begin(data, rng=seeded(0))
    alone = replace(whole, slices=whole.slices.without([str(i) for i in range(90) if str(i) not in own])[0])
    where = alone.slices.positions(part)
    before: list[Any] = []
    for j in range(3):
        key = (0, tuple(range(j + 1)))
        before.append(alone.train(key, before, part.subset(alone.slices.members(where, *key))))
        assert not same_bits(before[-1], model.service.states[key])


def test_epochs_of_a_stage_share_those_of_a_training() -> None:
    for epochs, slices, each in ((30, 4, 12), (30, 1, 30), (1, 9, 1)):
        assert SISA(recipe=RECIPE, epochs=epochs, slices=slices).each == each
    assert SISA(recipe=replace(RECIPE, epochs=10), slices=4).each == 4


def test_bad_recipes_are_refused_with_their_cure() -> None:
    class Plain:
        def build(self, data: Any, *, rng: Any) -> Any: ...

    with pytest.raises(
        InputError, match="cannot be trained in stages: it has no initial, train_, epochs, lr"
    ):
        SISA(recipe=Plain())
    with pytest.raises(InputError, match=r"SISA.recipe prunes \(prune\).*prune=None, recover_epochs=0"):
        SISA(recipe=replace(RECIPE, prune=Prune(budget=Global(0.5))))
    with pytest.raises(InputError, match=r"SISA.recipe prunes \(sparse\)"):
        SISA(recipe=replace(RECIPE, sparse=StaticMask()))
    with pytest.raises(InputError, match="begins at random weights"):
        SISA(recipe=RECIPE, pretrained_on="ImageNet")


class Based(Supervised):
    base = "somewhere"


def test_pretrained_weights_need_a_statement() -> None:
    recipe = Based(network=world.network, epochs=2)
    with pytest.raises(
        InputError, match="begins at the weights in somewhere, and nothing deletes from these"
    ):
        SISA(recipe=recipe)
    assert SISA(recipe=recipe, pretrained_on="noise").pretrained_on == "noise"
