from __future__ import annotations

from dataclasses import replace
from math import exp, log
from typing import Any

import pytest
import torch
from torch import nn

from tests.contract import world
from tests.unlearn.test_unprune import assert_equal
from unweave import Data, Request, Supervised, seeded
from unweave.embedded.digits import of_tensors
from unweave.errors import InputError
from unweave.fit import recording
from unweave.fit.recipe import warm_cosine_factor
from unweave.tasks import Classify
from unweave.unlearn import ShockAndHeal, ShortRetrain
from unweave.unlearn._heal import begins_alike, fading
from unweave.unlearn._muon import Muon
from unweave.unlearn.shock_and_heal import blend_

RECIPE = replace(world.FRESH, epochs=40)


class Flat(Classify):
    """Losses whose gradient is zero everywhere."""

    def losses(self, model: nn.Module, batch: Any) -> torch.Tensor:
        return 0.0 * super().losses(model, batch)


def flat(request: Request[Any]) -> Request[Any]:
    task = Flat(classes=3)
    return Request(*(replace(part, task=task) for part in (request.forget, request.retain, request.heldout)))


def nothing() -> nn.Module:
    """A fresh network of zeros: what is blended in adds nothing to the old weights."""
    made = world.network()
    with torch.no_grad():
        for p in made.parameters():
            p.zero_()
    return made


ZEROS = Supervised(network=nothing, epochs=40, lr=0.1, momentum=0.0, weight_decay=0.0)


@pytest.mark.parametrize(
    "method",
    [
        ShockAndHeal(recipe=ZEROS),
        ShockAndHeal(recipe=ZEROS, dose=2.0, blend=0.5, fraction=0.2),
        ShockAndHeal(recipe=ZEROS, dose=-log(0.3)),
        ShockAndHeal.plain(ZEROS),
        ShockAndHeal.plain(ZEROS, dose=2.0, fraction=0.5),
    ],
    ids=["default", "halved", "blend alone", "plain", "plain 2.0"],
)
def test_without_gradients_exp_minus_dose_of_the_matrices_is_left(method: ShockAndHeal) -> None:
    model = world.model().double()
    request = world.request()
    edited = method.apply(model, flat(request), rng=seeded(0))
    for old, new in zip(model.parameters(), edited.parameters(), strict=True):
        left = exp(-method.dose) if old.ndim > 1 else method.blend  # Adam's group does not decay
        torch.testing.assert_close(new, left * old, rtol=1e-6, atol=1e-12)


def test_decay_of_a_step_is_its_learning_rate_times_w() -> None:
    # w = (D + ln lambda) / (eta * sum_t v_t), and step t fades by exp(-eta v_t w)
    dose, blend, eta, steps = 2.6, 0.3, 0.1, 40
    v = [warm_cosine_factor(steps)(t) for t in range(steps)]
    assert v[:2] == [0.5, 1.0]  # a twentieth of the steps warms up
    assert min(v) > 0
    w = (dose + log(blend)) / (eta * sum(v))
    layer = nn.Linear(3, 2).double()
    fade, bias = fading(dose + log(blend), steps), layer.bias.detach().clone()

    class At:
        model = layer
        index = 0

    for t in range(steps):
        before = layer.weight.detach().clone()
        At.index = t + 1
        fade(At)  # type: ignore[arg-type]
        torch.testing.assert_close(layer.weight, exp(-eta * v[t] * w) * before, rtol=1e-12, atol=0)
    At.index = steps + 1
    before = layer.weight.detach().clone()
    fade(At)  # type: ignore[arg-type]
    assert torch.equal(layer.weight, before)
    assert torch.equal(layer.bias, bias)


def test_blend() -> None:
    ours, theirs = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    with torch.no_grad():
        ours.weight.copy_(torch.tensor([2.0, 4.0]))
        theirs.weight.copy_(torch.tensor([1.0, 0.0]))
        ours.running_mean.fill_(7.0)
    blend_(ours, theirs, 0.25)
    assert ours.weight.tolist() == [1.25, 1.0]
    assert ours.running_mean.tolist() == [7.0, 7.0]
    blend_(ours, theirs, 1.0)
    assert ours.weight.tolist() == [1.25, 1.0]


@pytest.mark.parametrize("fraction", [1 / 8, 3 / 16, 0.13])
def test_takes_its_fraction_of_the_recipes_steps(fraction: float) -> None:
    data = world.request()  # 78 retained examples: 5 steps an epoch, 200 in all
    model = world.model()
    with recording() as fits:
        ShockAndHeal(recipe=RECIPE, fraction=fraction).apply(model, data, rng=seeded(0))
    assert [fit.steps for fit in fits] == [round(fraction * 200)]


def test_follows_the_recipe_and_its_own_settings() -> None:
    seen: list[dict[str, Any]] = []

    class Spy(Supervised):
        def train_(self, model, data, **how):  # noqa: ANN001, ANN003, ANN202
            made = how["optimizer"]
            seen.append({**how, "optimizer": made and made(model.parameters(), lr=how["lr"])})

    spy = Spy(network=world.network, epochs=40, lr=0.3)
    ShockAndHeal(recipe=spy, adam_lr=0.02, newton_schulz=2).apply(
        world.model(), world.request(), rng=seeded(0)
    )
    ShockAndHeal(recipe=spy, lr=0.5).apply(world.model(), world.request(), rng=seeded(0))
    ShockAndHeal.plain(spy).apply(world.model(), world.request(), rng=seeded(0))
    muon, faster, own = seen
    assert (muon["epochs"], muon["lr"], faster["lr"], own["epochs"], own["lr"]) == (5.0, 0.1, 0.5, 10.0, 0.3)
    assert isinstance(muon["optimizer"], Muon)
    assert [g["lr"] for g in muon["optimizer"].param_groups] == [0.1, 0.02]
    assert all(g["newton_schulz"] == 2 for g in muon["optimizer"].param_groups)
    assert own["optimizer"] is None


def test_forgets_where_training_on_does_not() -> None:
    # random labels: what is known of the forgotten examples can only be memory
    draw = seeded(5)
    make = lambda n: of_tensors(  # noqa: E731
        torch.randn(n, 8, generator=draw), torch.randint(3, (n,), generator=draw), classes=3, batch_size=16
    )
    train, heldout = make(96), make(96)
    recipe = Supervised(
        network=lambda: nn.Sequential(nn.Linear(8, 96), nn.ReLU(), nn.Linear(96, 3)), epochs=120
    )
    model = recipe.build(train, rng=seeded(0))
    request = Request.of(train, heldout, list(range(24)))

    def loss(m: nn.Module) -> float:
        with torch.no_grad():
            return float(
                torch.cat([request.forget.task.losses(m, b) for b in request.forget.batches()]).mean()
            )

    edited = ShockAndHeal(recipe=recipe, fraction=0.25).apply(model, request, rng=seeded(1))
    tail = model_after_tail(model, recipe, request)
    assert loss(model) < 0.2
    assert loss(tail) < 0.5 * loss(edited)
    assert loss(edited) > 1.0  # a guess has ln 3


def model_after_tail(model: nn.Module, recipe: Supervised, request: Request[Any]) -> nn.Module:
    from unweave.unlearn import Continue

    return Continue(recipe=recipe, epochs=30, lr=0.1).apply(model, request, rng=seeded(1))


def test_begins_alike() -> None:
    assert begins_alike(world.RECIPE)
    assert not begins_alike(world.FRESH)
    assert not begins_alike(ZEROS)  # constants say nothing of where training began


class Half(nn.Module):
    """A body of fixed weights under a head that is drawn."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(8, 4), nn.Linear(4, 3)
        with torch.no_grad():
            self.body.weight.copy_(torch.arange(32.0).view(4, 8))


def test_refuses() -> None:
    data, model = world.request(), world.model()
    with pytest.raises(InputError, match=r"blend=0.3 alone fades the weights by 1.2\."):
        ShockAndHeal(recipe=RECIPE, dose=1.2)
    ShockAndHeal(recipe=RECIPE, dose=-log(0.3))
    for bad in ({"adam_lr": 0.02}, {"newton_schulz": 2}):
        with pytest.raises(InputError, match="would do nothing with optimizer"):
            ShockAndHeal(recipe=RECIPE, optimizer="recipe", **bad)
    with pytest.raises(InputError, match="would heal for 9 steps, and needs 10"):
        ShockAndHeal(recipe=RECIPE, fraction=9 / 200).apply(model, data, rng=seeded(0))
    ShockAndHeal(recipe=RECIPE, fraction=10 / 200).apply(model, data, rng=seeded(0))
    for fixed in (replace(RECIPE, init_seed=0), Supervised(network=Half, epochs=40)):
        with pytest.raises(InputError, match="same weights each time .* Use ShortRetrain"):
            ShockAndHeal(recipe=fixed).apply(model, data, rng=seeded(0))
    with pytest.raises(InputError, match="pruned models.* Use ShortRetrain"):
        ShockAndHeal(recipe=RECIPE).apply(world.model(sparse=True), data, rng=seeded(0))
    model[1].weight.requires_grad_(False)
    with pytest.raises(InputError, match=r"frozen: 1\.weight would keep"):
        ShockAndHeal(recipe=RECIPE).apply(model, data, rng=seeded(0))
    with pytest.raises(InputError, match="has none"):
        ShockAndHeal(recipe=RECIPE).apply(nn.BatchNorm1d(8), data, rng=seeded(0))
    with pytest.raises(InputError, match="another network"):
        ShockAndHeal(recipe=replace(RECIPE, network=lambda: nn.Linear(8, 3))).apply(
            world.model(), data, rng=seeded(0)
        )
    with pytest.raises(InputError, match="recipe must be a Trainer"):
        ShockAndHeal(recipe=Data)


def test_of_the_whole_recipe_short_retraining_is_the_nearest_relative() -> None:
    # all of the dose in a blend that keeps next to nothing: what is left trains from fresh weights
    data, model = world.request(), world.model()
    tiny = 1e-7
    shocked = ShockAndHeal(recipe=RECIPE, dose=-log(tiny), blend=tiny, fraction=0.2).apply(
        model, data, rng=seeded(2)
    )
    rng = seeded(2)
    fresh = RECIPE.initial(rng)

    class From:
        """The recipe, from these weights, in the order of draws of the shock."""

        epochs, lr = RECIPE.epochs, RECIPE.lr

        def initial(self, rng):  # noqa: ANN001, ANN202
            return fresh

        def train_(self, m, d, **how):  # noqa: ANN001, ANN003, ANN202
            from unweave.random import child

            again = seeded(2)
            RECIPE.initial(again)
            RECIPE.train_(m, d, **{**how, "rng": child(again)})

    exact = ShortRetrain(recipe=From(), fraction=0.2, optimizer="muon", decay=0.0).apply(
        model, data, rng=seeded(2)
    )
    for a, b in zip(shocked.parameters(), exact.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0.02, atol=0.02)
    assert not all(torch.equal(a, b) for a, b in zip(shocked.parameters(), model.parameters(), strict=True))
    assert_equal(exact, ShortRetrain(recipe=From(), fraction=0.2, optimizer="muon", decay=0.0).apply(
        model, data, rng=seeded(2)
    ))  # fmt: skip
