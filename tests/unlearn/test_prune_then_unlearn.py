from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Generator, nn

from tests.contract import world
from unweave import Data, Mask, seeded
from unweave.errors import InputError
from unweave.prune import Global, Magnitude, Prune, Scope, Uniform
from unweave.random import child
from unweave.unlearn import FineTune, L1Sparse, PruneThenUnlearn, RandomLabels, Retrain


class Watching:
    """A pruner that notes what it was given and delegates."""

    def __init__(self, sparsity: float = 0.7) -> None:
        self.inner, self.seen = Prune(budget=Global(sparsity)), []

    def apply(self, model: nn.Module, data: Data, *, rng: Generator) -> nn.Module:
        self.seen += [row for x, _ in data.batches() for row in x]
        return self.inner.apply(model, data, rng=rng)


class Doing:
    """An edit made of one function."""

    def __init__(self, change: Any) -> None:
        self.change = change

    def apply(self, model: nn.Module, data: Any, *, rng: Generator) -> nn.Module:
        made = world.model()
        made.load_state_dict(model.state_dict())
        with torch.no_grad():
            self.change(made)
        return made


def test_is_the_two_edits_in_turn() -> None:
    model, request = world.model(), world.request()
    edited = PruneThenUnlearn(prune=Prune(budget=Global(0.7)), unlearn=FineTune()).apply(
        model, request, rng=seeded(3)
    )
    rng = seeded(3)
    by_hand = FineTune().apply(
        Prune(budget=Global(0.7)).apply(model, request.retain, rng=child(rng)), request, rng=rng
    )
    assert all(torch.equal(p, q) for p, q in zip(edited.parameters(), by_hand.parameters(), strict=True))


def test_prunes_on_all_of_the_data() -> None:
    request, pruner = world.request(), Watching()
    PruneThenUnlearn(prune=pruner).apply(world.model(), request, rng=seeded(0))
    train, _ = world.points()
    rows = lambda tensors: sorted(tuple(t.tolist()) for t in tensors)  # noqa: E731
    assert rows(pruner.seen) == rows(x for batch, _ in train.batches() for x in batch)


@pytest.mark.parametrize(
    "unlearn", [FineTune(lr=0.05), RandomLabels(lr=0.05), L1Sparse()], ids=lambda u: type(u).__name__
)
def test_zeros_are_as_many_as_asked_and_stay(unlearn: Any) -> None:
    model = world.model()
    edited = PruneThenUnlearn(prune=Prune(budget=Global(0.7)), unlearn=unlearn).apply(
        model, world.request(), rng=seeded(0)
    )
    zeros = sum(int((p == 0).sum()) for p in edited.parameters() if p.ndim > 1)
    assert zeros == round(0.7 * (8 * 24 + 24 * 3))
    assert Mask.of(edited) == Mask.of(
        Prune(budget=Global(0.7)).apply(model, world.points()[0], rng=seeded(0))
    )


def test_refuses() -> None:
    model, request = world.model(), world.request()

    def empty_layer(m: nn.Module) -> None:
        m[3].weight.zero_()

    with pytest.raises(InputError, match=r"left no weight in 3\.weight"):
        PruneThenUnlearn(prune=Doing(empty_layer)).apply(model, request, rng=seeded(0))
    with pytest.raises(InputError, match="set no weight to zero"):
        PruneThenUnlearn(prune=Doing(lambda m: None)).apply(model, request, rng=seeded(0))
    with pytest.raises(InputError, match="Doing. brought 79 pruned weights back"):
        PruneThenUnlearn(
            prune=Prune(budget=Global(0.3)), unlearn=Doing(lambda m: [p.fill_(1.0) for p in m.parameters()])
        ).apply(model, request, rng=seeded(0))
    with pytest.raises(InputError, match="makes a dense one"):
        PruneThenUnlearn(prune=Prune(), unlearn=Retrain(recipe=world.RECIPE)).apply(
            model, request, rng=seeded(0)
        )


def test_a_layer_that_was_empty_before_is_not_the_pruners_doing() -> None:
    model = world.model()
    with torch.no_grad():
        model[3].weight.zero_()
    method = PruneThenUnlearn(prune=Prune(score=Magnitude(scope=Scope(last=False)), budget=Global(0.5)))
    edited = method.apply(model, world.request(), rng=seeded(0))
    assert int((edited[1].weight == 0).sum()) == 96


def test_a_pruner_must_prune_further_than_the_model_is() -> None:
    model, request = world.model(sparse=True), world.request()
    half = PruneThenUnlearn(prune=Prune(budget=Uniform(0.5)))
    with pytest.raises(InputError, match="set no weight to zero"):
        half.apply(model, request, rng=seeded(0))
    edited = PruneThenUnlearn(prune=Prune(budget=Uniform(0.75))).apply(model, request, rng=seeded(0))
    assert Mask.of(edited).density() == pytest.approx(0.25)
