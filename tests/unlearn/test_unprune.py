from __future__ import annotations

import warnings
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Generator, nn
from torch.nn import Module

from tests.contract import world
from unweave import Data, Mask, Request, Supervised, seeded
from unweave.embedded.digits import digits, of_tensors
from unweave.embedded.nets import mlp, small_cnn
from unweave.errors import EmptyDataError, InputError
from unweave.prune import GMP, NM, Channel, Global, Prune, Uniform
from unweave.tasks import read_labels
from unweave.unlearn import Continue, FixedMask, ShortRetrain, Unprune
from unweave.unlearn._topology_edit import initial_like, revived_positions


@dataclass(frozen=True)
class Nothing:
    """An unlearner that changes nothing."""

    def apply(self, model: Module, data: Request[Any], *, rng: Generator) -> Module:
        return model


@dataclass(frozen=True)
class Add:
    """An unlearner that adds to one weight, also where it is pruned."""

    value: float

    def apply(self, model: Module, data: Request[Any], *, rng: Generator) -> Module:
        with torch.no_grad():
            next(model.parameters()).flatten()[1] += self.value
        return model


@dataclass(frozen=True)
class Still:
    """A recipe whose training adds `move` to the single weight and counts its epochs nowhere."""

    weights: tuple[float, ...]
    move: tuple[float, ...] = (0.0,) * 4
    prune: Any = None
    epochs: int = 1
    lr: float = 0.1

    def initial(self, rng: Generator) -> Module:
        return line(*self.weights)

    def train_(
        self,
        model: Module,
        data: Data,
        *,
        epochs: int,
        lr: float,
        rng: Generator,
        hold: Any = None,
        of: int | None = None,
    ) -> None:
        with torch.no_grad():
            next(model.parameters()).add_(torch.tensor(self.move).view(2, 2))


def line(*weights: float) -> Module:
    model = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor(weights).view(2, 2))
    return model


def request() -> Request:
    data = of_tensors(torch.randn(8, 2, generator=seeded(0)), torch.arange(8) % 2, classes=2)
    return Request.of(data, data, [0, 1])


def sparse(recipe: Supervised, seed: int = 1) -> Module:
    return recipe.build(world.points()[0], rng=seeded(seed))


def tiny(network: Any = None, **changes: Any) -> Supervised:
    made = Supervised(
        network=network or world.network, epochs=6, lr=0.1, init_seed=0, prune=Prune(budget=Uniform(0.5))
    )
    return replace(made, **changes)


def test_paper_mode_exact() -> None:
    # survivors 4 and 3 stay, theta0 = (1, 2, 5, -6): the dead 1 and 2 take 2 and 5; 1 is moved to 2 + 3 = 5
    # re-pruned to two of (4, 5, 5, 3): positions 1 and 2
    model = line(4.0, 0.0, 0.0, 3.0)
    edited = Unprune(unlearn=Add(3.0), recipe=Still((1.0, 2.0, 5.0, -6.0)), mode="paper").apply(
        model, request(), rng=seeded(0)
    )
    assert edited.weight.flatten().tolist() == [0, 5, 5, 0]
    assert model.weight.flatten().tolist() == [4, 0, 0, 3]


def test_rewind_mode_exact() -> None:
    # survivors at theta0 + (theta - theta0) / 2 = (1 + 3/2, -6 + 9/2) = (2.5, -1.5), revived 2 and 5.
    # stretch 1 keeps 5 and 2.5. Stretch 2: (1 + 3, 2, 5, -6 + 9 = 3): keeps 5 and 4.
    model, theta0 = line(4.0, 0.0, 0.0, 3.0), (1.0, 2.0, 5.0, -6.0)
    make = partial(Unprune, unlearn=Nothing(), recipe=Still(theta0), mode="rewind", rewind=0.5)
    edited = make(stretch=1.0).apply(model, request(), rng=seeded(0))
    assert edited.weight.flatten().tolist() == [2.5, 0, 5, 0]
    # theta0 = (1, 2.8, 2.6, -6) gives (2.5, 2.8, 2.6, -1.5): near keeps 1 and 2. Stretched by 1.5
    # the survivors count as 1 + 2.25 and -6 + 6.75: 0 and 1 are kept, at their own values
    near = make(recipe=Still((1.0, 2.8, 2.6, -6.0)), stretch=1.0)
    far = replace(near, stretch=1.5)
    assert near.apply(model, request(), rng=seeded(0)).weight.flatten().tolist() == pytest.approx(
        [0, 2.8, 2.6, 0]
    )
    assert far.apply(model, request(), rng=seeded(0)).weight.flatten().tolist() == pytest.approx(
        [2.5, 2.8, 0, 0]
    )


def test_scout_mode_exact() -> None:
    # the scout goes from (1, 2, 5, -6) to (1, 7, 5, 1): its mask keeps positions 1 and 2, both dead before,
    # so both values are the scout's; with the move (9, 7, 0, 0) it keeps 0 and 1: 0 lived and stays at 4.
    model, theta0 = line(4.0, 0.0, 0.0, 3.0), (1.0, 2.0, 5.0, -6.0)
    make = lambda move: Unprune(unlearn=Nothing(), recipe=Still(theta0, move), stretch=1.0)  # noqa: E731
    assert make((0.0, 5.0, 0.0, 7.0)).apply(model, request(), rng=seeded(0)).weight.flatten().tolist() == [
        0,
        7,
        5,
        0,
    ]
    other = make((9.0, 7.0, 0.0, 7.0))
    assert other.apply(model, request(), rng=seeded(0)).weight.flatten().tolist() == [4, 9, 0, 0]
    half = replace(other, rewind=0.5)
    assert half.apply(model, request(), rng=seeded(0)).weight.flatten().tolist() == [2.5, 9, 0, 0]


def test_scouts_mask_owes_nothing_to_the_deleted_examples() -> None:
    recipe, data = tiny(), world.request()
    method = Unprune(unlearn=Continue(recipe=recipe), recipe=recipe, scout_epochs=3)
    saw_all, saw_other = sparse(recipe), recipe.build(world.points()[1], rng=seeded(2))
    assert Mask.of(saw_all) != Mask.of(saw_other)
    a, b = (Mask.of(method.apply(model, data, rng=seeded(5))) for model in (saw_all, saw_other))
    assert a == b
    rewind = replace(method, mode="rewind", scout_epochs=6)
    a, b = (Mask.of(rewind.apply(model, data, rng=seeded(5))) for model in (saw_all, saw_other))
    assert a != b


@pytest.mark.parametrize("mode", ["scout", "rewind", "paper"])
def test_counts_are_the_models_own(mode: Any) -> None:
    recipe = tiny(prune=Prune(budget=Uniform(0.7)))
    model, data = sparse(recipe), world.request()
    method = Unprune(unlearn=Continue(recipe=recipe, lr=0.3), recipe=recipe, mode=mode, recover_epochs=1)
    kept = Mask.of(method.apply(model, data, rng=seeded(3)))
    for name, alive in Mask.of(model).keep.items():
        assert int(kept.keep[name].sum()) == int(alive.sum())
    together = tiny(prune=Prune(budget=Global(0.7)))
    model = sparse(together)
    method = replace(method, recipe=together)
    kept = Mask.of(method.apply(model, data, rng=seeded(3)))
    assert kept.count() == Mask.of(model).count()


def test_limit_rewind_of_nothing_is_paper_mode_and_of_all_is_a_short_retrain() -> None:
    recipe, data = tiny(), world.request()
    model = sparse(recipe)
    unlearn = Continue(recipe=recipe, epochs=3, lr=0.3)
    paper = Unprune(unlearn=unlearn, recipe=recipe, mode="paper").apply(model, data, rng=seeded(1))
    none = Unprune(unlearn=unlearn, recipe=recipe, mode="rewind", rewind=1.0, stretch=1.0)
    assert_equal(paper, none.apply(model, data, rng=seeded(1)))
    # the two draw different numbers of seeds before they train: one batch leaves no order to differ in
    batch = replace(data, retain=replace(data.retain, batch_size=1000))
    whole = replace(none, rewind=0.0, unlearn=unlearn).apply(model, batch, rng=seeded(1))
    short = ShortRetrain(recipe=recipe, epochs=3, lr=0.3, recover_epochs=0).apply(model, batch, rng=seeded(2))
    for p, q in zip(whole.parameters(), short.parameters(), strict=True):
        torch.testing.assert_close(p, q)


def test_gradual_growth_revives_that_share_each_round() -> None:
    seen: list[int] = []

    class Watch:
        def apply(self, model: Module, data: Request[Any], *, rng: Generator) -> Module:
            seen.append(int((next(model.parameters()) != 0).sum()))
            return model

    recipe = tiny()
    model = sparse(recipe)
    total, alive = 8 * 24, Mask.of(model).keep["1.weight"].sum().item()
    method = Unprune(unlearn=Watch(), recipe=recipe, mode="rewind", growth=0.25, rounds=5)
    method.apply(model, world.request(), rng=seeded(0))
    expected = [alive + round(min(1.0, 0.25 * k) * (total - alive)) for k in range(1, 6)]
    assert seen == expected


@pytest.mark.parametrize("init", ["random", "zero"])
def test_revived_weights_can_move_whatever_they_start_from(init: Any) -> None:
    recipe, data = tiny(), world.request()
    model = sparse(recipe)
    grown: list[Module] = []

    class Keep:
        def apply(self, model: Module, data: Request[Any], *, rng: Generator) -> Module:
            edited = Continue(recipe=recipe, epochs=3, lr=0.3).apply(model, data, rng=rng)
            grown.append(deepcopy(edited))
            return edited

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # small beginnings may leave the mask as it is; that is another test
        Unprune(unlearn=Keep(), recipe=recipe, mode="paper", init=init).apply(model, data, rng=seeded(0))
    dead = ~Mask.of(model).keep["1.weight"]
    moved = next(grown[0].parameters())[dead].abs()
    assert (moved > 1e-5).float().mean() > 0.9


def structured() -> tuple[Supervised, Module, Request]:
    rng = seeded(0)
    inputs = torch.randn(80, 3, 8, 8, generator=rng)
    labels = torch.arange(80) % 4
    inputs += 2 * torch.randn(4, 3, 8, 8, generator=rng)[labels]
    data = of_tensors(inputs, labels, classes=4, batch_size=40)
    recipe = Supervised(
        network=partial(small_cnn, 4, 3, 6), epochs=4, lr=0.1, init_seed=0, recover_epochs=1,
        prune=Prune(pattern=Channel(), budget=Uniform(0.5)),
    )  # fmt: skip
    prune = replace(recipe, prune=replace(recipe.prune, score=_convolutions()))
    return prune, prune.build(data, rng=seeded(1)), Request.of(data, data, list(range(0, 80, 7)))


def _convolutions() -> Any:
    from unweave.prune import Magnitude, Scope

    return Magnitude(scope=Scope(last=False))


def test_filters_come_back_with_normalisation_and_followers() -> None:
    recipe, model, data = structured()
    dead = ~Mask.of(model).keep["0.weight"].flatten(1).any(1)
    assert dead.sum() == 3
    grown: list[Module] = []

    class Keep:
        def apply(self, model: Module, data: Request[Any], *, rng: Generator) -> Module:
            grown.append(deepcopy(model))
            return model

    Unprune(unlearn=Keep(), recipe=recipe, mode="paper").apply(model, data, rng=seeded(0))
    first, start = grown[0], recipe.initial(seeded(0))
    assert torch.equal(first[0].weight[dead], start[0].weight[dead])
    assert torch.equal(first[0].weight[~dead], model[0].weight[~dead])
    assert torch.equal(first[1].weight[dead], torch.ones(3))
    assert torch.equal(first[1].bias[dead], torch.zeros(3))
    assert torch.equal(first[1].running_mean[dead], torch.zeros(3))
    assert torch.equal(first[1].running_var[dead], torch.ones(3))
    assert torch.equal(first[1].running_mean[~dead], model[1].running_mean[~dead])
    followers = ~Mask.of(model).keep["3.weight"].flatten(1).any(1)
    assert torch.equal(first[3].weight[:, dead][~followers], start[3].weight[:, dead][~followers])
    assert torch.equal(first[3].weight[:, ~dead][~followers], model[3].weight[:, ~dead][~followers])


def test_filters_stay_whole_and_as_many() -> None:
    recipe, model, data = structured()
    method = Unprune(unlearn=Continue(recipe=recipe, epochs=1), recipe=recipe, scout_epochs=2)
    before, after = Mask.of(model), Mask.of(method.apply(model, data, rng=seeded(0)))
    assert after != before
    for name, alive in after.keep.items():
        rows = alive.flatten(1) if alive.ndim > 1 else alive[:, None]  # norms live and die with their filter
        assert (rows.all(1) == rows.any(1)).all(), name
        assert rows.any(1).sum() == before.keep[name].view(len(rows), -1).any(1).sum(), name
    with pytest.raises(InputError, match="whole filters"):
        replace(method, unit="weight").apply(model, data, rng=seeded(0))


def test_keeps_an_n_m_pattern() -> None:
    recipe = tiny(prune=Prune(pattern=NM(2, 4)))
    model, data = sparse(recipe), world.request()
    method = Unprune(unlearn=Continue(recipe=recipe), recipe=recipe, scout_epochs=3)
    kept = Mask.of(method.apply(model, data, rng=seeded(0)))
    for alive in kept.keep.values():
        assert (alive.view(alive.shape[0], -1, 4).sum(-1) == 2).all()
    gradual = replace(method, mode="rewind", scout_epochs=6, growth=0.5)
    with pytest.raises(InputError, match="N:M"):
        gradual.apply(model, data, rng=seeded(0))


def test_mask_comes_nearer_to_the_oracles_than_the_models_own() -> None:
    train, heldout = digits(noise=0.3, seed=0)
    positions = (read_labels(train) == 3).nonzero().flatten()
    data = Request.of(train, heldout, positions)
    recipe = Supervised(
        network=partial(mlp, 64, 64, 32, 10), epochs=24, lr=0.1, init_seed=0, prune=Prune(budget=Uniform(0.9))
    )
    model = recipe.build(train, rng=seeded(1))
    oracle = Mask.of(recipe.build(data.retain, rng=seeded(2)))
    floor = Mask.of(model).iou(oracle)
    unlearn = Continue(recipe=recipe, epochs=1)
    make = partial(Unprune, unlearn=unlearn, recipe=recipe, scout_epochs=5)
    found = Mask.of(make().apply(model, data, rng=seeded(3))).iou(oracle)
    assert found > floor + 0.05
    # control: the same from other initial weights is near chance, 0.1 / 1.9
    other = replace(recipe, init_seed=9)
    with pytest.warns(UserWarning, match="no trace of the initial weights"):
        lost = Mask.of(make(recipe=other).apply(model, data, rng=seeded(3))).iou(oracle)
    assert lost < floor - 0.05


def test_warns_of_a_mask_as_good_as_kept() -> None:
    # revived weights at 2 and 1 against survivors at 4 and 3: pruned again at once
    method = Unprune(unlearn=Nothing(), recipe=Still((9.0, 2.0, 1.0, 9.0)), mode="paper")
    with pytest.warns(UserWarning, match="0 of 2 surviving positions"):
        method.apply(line(4.0, 0.0, 0.0, 3.0), request(), rng=seeded(0))


def test_refuses() -> None:
    recipe, data = tiny(), world.request()
    model = sparse(recipe)
    unlearn = Continue(recipe=recipe)
    good = Unprune(unlearn=unlearn, recipe=recipe)
    for method in (good, FixedMask(unlearn=unlearn)):
        with pytest.raises(InputError, match="nothing to un-prune"):
            method.apply(world.model(), data, rng=seeded(0))
        with pytest.raises(EmptyDataError):
            method.apply(model, replace(data, forget=data.forget.subset([])), rng=seeded(0))
        with pytest.raises(EmptyDataError):
            method.apply(model, replace(data, retain=data.retain.subset([])), rng=seeded(0))
    for method in (good, ShortRetrain(recipe=recipe)):
        with pytest.raises(InputError, match="init_seed"):
            replace(method, recipe=replace(recipe, init_seed=None)).apply(model, data, rng=seeded(0))
        wide = replace(recipe, network=partial(mlp, 8, 25, 3))
        with pytest.raises(InputError, match="another network"):
            replace(method, recipe=wide).apply(model, data, rng=seeded(0))
    with pytest.raises(InputError, match="single weights"):
        replace(good, unit="filter").apply(model, data, rng=seeded(0))
    frozen = sparse(recipe).requires_grad_(False)
    frozen[-1].bias.requires_grad_(True)
    with pytest.raises(InputError, match="in scope|none of the"):
        good.apply(frozen, data, rng=seeded(0))
    make = partial(Unprune, unlearn=unlearn, recipe=recipe)
    for bad, match in (
        ({"mode": "other"}, "mode must be"),
        ({"init": "other"}, "init must be"),
        ({"growth": 0.0}, "growth must be"),
        ({"rounds": 0}, "rounds must be"),
        ({"rewind": -0.1}, "rewind must be"),
        ({"mode": "paper", "rewind": 0.5}, "mode='rewind'"),
        ({"init": "zero"}, "init='zero' would do nothing in mode='scout'"),
        ({"stretch": 0.5}, "stretch must be"),
        ({"scout_epochs": 0}, "scout_epochs must be"),
        ({"scout_epochs": 4, "scout_of": 3}, "scout_of must be at least scout_epochs; got 3 of 4"),
        ({"recover_epochs": -1}, "recover_epochs must be a whole number at least 0"),
    ):
        with pytest.raises(InputError, match=match):
            make(**bad)
    for kind, bad in (
        (ShortRetrain, {"epochs": 0}),
        (ShortRetrain, {"recover_epochs": -1}),
        (Continue, {"lr": 0.0}),
    ):
        with pytest.raises(InputError, match=next(iter(bad))):
            kind(recipe=recipe, **bad)


def assert_equal(a: Module, b: Module) -> None:
    for (name, p), q in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        assert torch.equal(p, q), name


@dataclass(frozen=True)
class Ranked:
    """A score that prefers the given positions, and a pruning of one shot around it."""

    order: tuple[float, ...] = ()

    def score(self, model: Module, data: Any) -> dict[str, torch.Tensor]:
        return {"weight": torch.tensor(self.order).view(2, 2)}


def calls_of(recipe: Still) -> tuple[Any, list[dict[str, Any]]]:
    """The recipe, noting how it was asked to train."""
    seen: list[dict[str, Any]] = []

    class Noting(Still):
        def train_(self, model: Module, data: Data, **how: Any) -> None:
            seen.append({k: v for k, v in how.items() if k != "rng"} | {"examples": len(data)})
            super().train_(model, data, **how)

    return Noting(**vars(recipe)), seen


def test_defaults_of_the_scout_are_the_recipes() -> None:
    recipe, seen = calls_of(Still((1.0, 2.0, 5.0, -6.0), (0.0, 5.0, 0.0, 7.0), epochs=30, lr=0.7))
    make = partial(Unprune, unlearn=Nothing(), recipe=recipe)
    make().apply(line(4.0, 0.0, 0.0, 3.0), request(), rng=seeded(0))
    assert seen == [{"epochs": 6, "lr": 0.7, "of": 30, "examples": 6}]
    seen.clear()
    method = make(scout_epochs=2, scout_lr=0.3, scout_of=9, recover_epochs=4, recover_lr=0.05)
    edited = method.apply(line(4.0, 0.0, 0.0, 3.0), request(), rng=seeded(0))
    hold = seen[1].pop("hold")
    assert seen == [
        {"epochs": 2, "lr": 0.3, "of": 9, "examples": 6},
        {"epochs": 4, "lr": 0.05, "examples": 6},
    ]
    assert hold.keep["weight"].flatten().tolist() == [False, True, True, False]
    assert edited.weight.flatten().tolist() == [0, 12, 5, 7]  # this recipe moves what it is told to hold


def test_default_shares_of_the_modes() -> None:
    # rewind: survivors at theta0 + (theta - theta0) / 4 = (1.75, -3.75), revived 2 and 5; stretched by 1.25 they
    # count as 1 + 0.9375 and -6 + 2.8125 = -3.1875: 5 and -3.1875 are kept, at 5 and -3.75
    model, theta0 = line(4.0, 0.0, 0.0, 3.0), (1.0, 2.0, 5.0, -6.0)
    rewound = Unprune(unlearn=Nothing(), recipe=Still(theta0), mode="rewind").apply(
        model, request(), rng=seeded(0)
    )
    assert rewound.weight.flatten().tolist() == [0, 0, 5, -3.75]
    # scout at (2.8, 2.7, 2.6, -5): stretched to (3.25, 2.875, 2, -4.75): keeps 0 and 3, both alive, at 4 and 3;
    # a scout that is not stretched, or twice as much, keeps others
    recipe = Still(theta0, (1.8, 0.7, -2.4, 1.0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the mask is as good as kept
        scouted = Unprune(unlearn=Nothing(), recipe=recipe).apply(model, request(), rng=seeded(0))
    assert scouted.weight.flatten().tolist() == [4, 0, 0, 3]
    # paper, scored as they are: 4, 2, 3.9, 3 keep 0 and 2; stretched they would be 4.75, 2, 3.9, 5.25: 0 and 3
    paper = Unprune(unlearn=Nothing(), recipe=Still((1.0, 2.0, 3.9, -6.0)), mode="paper")
    got = paper.apply(model, request(), rng=seeded(0)).weight.flatten().tolist()
    assert got == pytest.approx([4, 0, 3.9, 0])


def test_stretch_decides_which_the_scout_keeps() -> None:
    # theta0 (1, 2, 5, -6), scout at (2.8, 2.9, 3, -6): as they are 3 and -6 are largest; 1.25 times as far
    # (3.25, 3.125, 2.5, -6): the first and the last; 2 times: (4.6, 3.8, 1, -6)
    recipe = Still((1.0, 2.0, 5.0, -6.0), (1.8, 0.9, -2.0, 0.0))
    make = partial(Unprune, unlearn=Nothing(), recipe=recipe)
    model = line(0.0, 4.0, 3.0, 0.0)
    for stretch, kept in ((1.0, [2, 3]), (None, [0, 3]), (2.0, [0, 3])):
        edited = make(stretch=stretch).apply(model, request(), rng=seeded(0))
        assert edited.weight.flatten().nonzero().flatten().tolist() == kept


def test_revived_values_by_hand() -> None:
    # what the unlearner sees of the dead positions 1 and 2 in each init; survivors stay
    seen: list[list[float]] = []

    class Watch:
        def apply(self, model: Module, data: Request[Any], *, rng: Generator) -> Module:
            seen.append(model.weight.flatten().tolist())
            return model

    model = line(4.0, 0.0, 0.0, 3.0)
    make = partial(Unprune, unlearn=Watch(), recipe=Still((1.0, 2.0, 0.0, -6.0)), mode="paper")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for init in ("original", "zero", "random"):
            make(init=init).apply(model, request(), rng=seeded(3))
    tiny = torch.finfo(torch.float32).tiny
    assert seen[0] == [4, 2, tiny, 3]
    assert seen[1] == [4, tiny, tiny, 3]
    rng = seeded(3)
    torch.randint(2**62, (), generator=rng)  # the seed of the scores
    drawn = (1e-3 * torch.randn(2, 2, generator=rng)).flatten().tolist()
    assert seen[2] == [4, drawn[1], drawn[2], 3]


def test_growth_takes_the_largest_initial_values_first() -> None:
    # of the dead (1, -5, 2) at theta0 the largest in size come first: -5, then 2, then 1
    seen: list[list[int]] = []

    class Watch:
        def apply(self, model: Module, data: Request[Any], *, rng: Generator) -> Module:
            seen.append(model.weight.flatten().nonzero().flatten().tolist())
            return model

    method = Unprune(
        unlearn=Watch(), recipe=Still((1.0, -5.0, 2.0, 9.0)), mode="paper", growth=1 / 3, rounds=4
    )
    method.apply(line(0.0, 0.0, 0.0, 3.0), request(), rng=seeded(0))
    assert seen == [[1, 3], [1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3]]


def test_the_recipes_own_score_and_budget_choose() -> None:
    # a one-shot pruning by another score keeps what that prefers: positions 0 and 1
    prune = Prune(score=Ranked((9.0, 8.0, 1.0, 2.0)), budget=Uniform(0.5))
    recipe = Still((1.0, 2.0, 5.0, -6.0), prune=prune)
    method = Unprune(unlearn=Nothing(), recipe=recipe)
    assert method.apply(line(4.0, 0.0, 0.0, 3.0), request(), rng=seeded(0)).weight.flatten().tolist() == [
        4,
        2,
        0,
        0,
    ]
    # a pruning that is not of one shot tells no score: magnitude, layer by layer
    gradual = replace(method, recipe=replace(recipe, prune=GMP(budget=Global(0.5))))
    found = gradual.apply(line(4.0, 0.0, 0.0, 3.0), request(), rng=seeded(0))
    assert found.weight.flatten().nonzero().flatten().tolist() == [2, 3]


def two_lines(first: tuple[float, ...], second: tuple[float, ...]) -> Module:
    return nn.Sequential(line(*first), line(*second))


@dataclass(frozen=True)
class Pair(Still):
    """A recipe of two layers, whose training changes nothing."""

    second: tuple[float, ...] = ()

    def initial(self, rng: Generator) -> Module:
        return two_lines(self.weights, self.second)

    def train_(self, model: Module, data: Data, **how: Any) -> None:
        pass


@pytest.mark.parametrize(
    ("budget", "scope", "counts"),
    [(None, None, [2, 2]), (Global(0.5), None, [1, 3]), (Uniform(0.5), None, [2, 2]),
     (None, "global", [1, 3]), (Global(0.5), "layer", [2, 2])],
)  # fmt: skip
def test_scope_is_the_budgets_unless_said(budget: Any, scope: Any, counts: list[int]) -> None:
    # theta0's sizes: 9 2 1 1 in the first layer, 8 7 6 1 in the second; each layer of the model has two alive
    recipe = Pair((9.0, 2.0, 1.0, 1.5), second=(8.0, 7.0, 6.0, 1.0), prune=budget and Prune(budget=budget))
    method = Unprune(unlearn=Nothing(), recipe=recipe, scope=scope)
    model = two_lines((0.0, 4.0, 0.0, 3.0), (0.0, 4.0, 0.0, 3.0))
    edited = method.apply(model, request(), rng=seeded(0))
    assert [int((p != 0).sum()) for p in edited.parameters()] == counts


def test_scope_is_refused_where_every_group_keeps_n() -> None:
    recipe = tiny(prune=Prune(pattern=NM(2, 4)))
    method = Unprune(unlearn=Continue(recipe=recipe), recipe=recipe, scope="layer")
    with pytest.raises(InputError, match="scope would do nothing for an N:M mask"):
        method.apply(sparse(recipe), world.request(), rng=seeded(0))


def test_unit_overrules_the_recipes_pattern() -> None:
    # whole rows are dead, so the mask is by filters; by its largest row: the first of theta0
    recipe = Still((1.0, 9.0, 5.0, 6.0), prune=Prune(budget=Uniform(0.5)))
    method = Unprune(unlearn=Nothing(), recipe=recipe, unit="filter")
    edited = method.apply(line(0.0, 0.0, 4.0, 3.0), request(), rng=seeded(0))
    assert edited.weight.flatten().tolist() == [1, 9, 0, 0]
    by_weight = replace(method, unit=None).apply(line(0.0, 0.0, 4.0, 3.0), request(), rng=seeded(0))
    assert by_weight.weight.flatten().tolist() == [0, 9, 0, 3]


def test_unrelated_initial_weights_are_told_by_three_standard_errors() -> None:
    rng = seeded(0)
    first = torch.randn(20, 10, generator=rng)
    noise = torch.randn(20, 10, generator=rng)

    def linear(weights: torch.Tensor) -> Module:
        layer = nn.Linear(10, 20, bias=False)
        with torch.no_grad():
            layer.weight.copy_(weights)
        return layer

    @dataclass(frozen=True)
    class From(Still):
        def initial(self, rng: Generator) -> Module:
            return linear(first)

    half = (
        torch.arange(200).view(20, 10) % 2 == 0
    )  # 100 survivors: three standard errors are a correlation of 0.3
    for mix, warned in ((0.0, True), (1.0, False)):
        model = linear((mix * first + noise) * half)
        alike = float(torch.corrcoef(torch.stack([model.weight[half].detach(), first[half]]))[0, 1])
        assert (alike > 0.3) != warned
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            initial_like("Z", From(()), model)
        assert [("no trace of the initial weights" in str(w.message)) for w in caught] == [True] * warned
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            few = half & (torch.arange(200).view(20, 10) < 198)
            initial_like("Z", From(()), linear((mix * first + noise) * few))  # 99: too few to tell
        assert caught == []


def test_initial_weights_leave_what_is_frozen() -> None:
    model = line(4.0, 0.0, 0.0, 3.0)
    model.weight.requires_grad_(False)
    start = initial_like("Z", Still((1.0, 2.0, 5.0, -6.0)), model)
    assert torch.equal(start.weight, model.weight)


def test_a_revived_filter_brings_its_bias_back() -> None:
    mask = Mask({"weight": torch.tensor([[True, False], [False, False]])})
    model = nn.Linear(2, 2)
    fresh = revived_positions(mask, model, model, request().retain)
    assert fresh["weight"].tolist() == [[False, True], [True, True]]
    assert fresh["bias"].tolist() == [False, True]
