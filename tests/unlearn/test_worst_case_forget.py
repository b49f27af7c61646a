from __future__ import annotations

from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import pytest
import torch
from scipy.optimize import brentq, minimize
from torch import Tensor, nn
from torch.utils.data import Dataset

from tests.contract import world
from unweave import Data, Mask, Request, Supervised, seeded
from unweave.embedded.digits import digits, of_tensors
from unweave.embedded.nets import mlp
from unweave.errors import EmptyDataError, InputError
from unweave.tasks import Classify, accuracy, predict, read_labels
from unweave.unlearn import WorstCaseForget
from unweave.unlearn import worst_case_forget as module
from unweave.unlearn.worst_case_forget import SignSGD, project, shares, stepped, top

QUICK = WorstCaseForget(size=9, rounds=2, epochs=2, lr=2e-3)


@lru_cache
def noisy() -> tuple[Data, Data, nn.Module]:
    """Digits with noise, and a network that has them by heart."""
    train, heldout = digits(noise=0.3)
    recipe = Supervised(network=lambda: mlp(64, 96, 10), epochs=30, lr=0.05, schedule="constant")
    return train, heldout, recipe.build(train, rng=seeded(0))


# the projection


@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
@pytest.mark.parametrize(("n", "m"), [(2, 1), (7, 1), (7, 3), (40, 39), (201, 20)])
def test_projection_against_bisection(n: int, m: int, scale: float) -> None:
    for seed in range(5):
        a = scale * torch.randn(n, generator=seeded(seed), dtype=torch.float64)
        excess = partial(lambda a, v: float((a - v).clamp(0, 1).sum()) - m, a)
        mu = brentq(excess, float(a.min()) - 1, float(a.max()), xtol=1e-14)
        found = project(a, m)
        assert float(found.sum()) == pytest.approx(m, abs=1e-9)
        torch.testing.assert_close(found, (a - mu).clamp(0, 1), rtol=0, atol=1e-9)


def test_projection_is_the_nearest_point() -> None:
    a = torch.tensor([1.4, 0.2, -0.3, 0.9, 0.15], dtype=torch.float64)
    nearest = minimize(
        lambda w: ((w - a.numpy()) ** 2).sum(), [0.4] * 5, bounds=[(0, 1)] * 5, tol=1e-14,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 2}, method="SLSQP",
    )  # fmt: skip
    torch.testing.assert_close(project(a, 2), torch.tensor(nearest.x), rtol=0, atol=1e-6)


def test_projection_leaves_what_is_feasible_and_bears_ties() -> None:
    for w in ([1.0, 0.0, 0.5, 0.5], [1.0, 1.0, 0.0, 0.0]):
        assert project(torch.tensor(w), 2).tolist() == pytest.approx(w, abs=1e-12)
    assert project(torch.zeros(8), 2).tolist() == [0.25] * 8
    assert project(torch.tensor([5.0, 5.0, -5.0, 5.0]), 3).tolist() == [1.0, 1.0, 0.0, 1.0]


# a round


def test_step_against_the_equation() -> None:
    losses = torch.rand(30, generator=seeded(1), dtype=torch.float64) * 3
    w = (torch.arange(30) < 6).double()
    ordered = sorted(losses.tolist())

    def quantile(q: float) -> float:
        at = q * 29
        return ordered[int(at)] + (at % 1) * (ordered[int(at) + 1] - ordered[int(at)])

    lr_w = 1.5 / (quantile(0.9) - quantile(0.1))
    wanted = project(
        torch.tensor(
            [float(a) - lr_w * (float(b) + 2 * 0.3 * float(a)) for a, b in zip(w, losses, strict=True)],
            dtype=torch.float64,
        ),
        6,
    )
    torch.testing.assert_close(stepped(w, losses, 6, step=1.5, gamma=0.3), wanted, rtol=1e-10, atol=1e-12)
    with pytest.raises(InputError, match="finds no spread in the losses"):
        stepped(w, torch.ones(30, dtype=torch.float64), 6, step=1.0, gamma=0.0)


def test_sign_steps() -> None:
    p = nn.Parameter(torch.tensor([1.0, -2.0, 3.0, 4.0]))

    def closure() -> Tensor:
        p.grad = torch.tensor([0.001, -70.0, 0.0, 5.0])
        return torch.tensor(7.0)

    assert SignSGD([p], 0.5).step(closure) == 7.0
    assert p.tolist() == [0.5, -1.5, 3.0, 3.5]


def test_lower_level_trains_on_the_rest_by_sign_steps() -> None:
    # One batch, one epoch: every weight moves by lr against the sign of the weighted sum's gradient.
    train, _ = world.points()
    train = replace(train, batch_size=90)
    model = nn.Sequential(nn.Flatten(), nn.Linear(8, 3))
    w = torch.rand(90, generator=seeded(0), dtype=torch.float64)
    seen = replace(QUICK, epochs=1, least=0.0)._losses_without(w, model, train, None, seeded(0))
    x, y = next(train.batches())
    weight, bias = (p.detach().double().requires_grad_() for p in model.parameters())
    total = sum((1 - w[i]) * -(weight @ x[i].double() + bias).log_softmax(0)[y[i]] for i in range(90))
    slopes = torch.autograd.grad(total, [weight, bias])
    weight, bias = (p.detach() - 2e-3 * d.sign() for p, d in zip((weight, bias), slopes, strict=True))
    wanted = -(x.double() @ weight.T + bias).log_softmax(1).gather(1, y[:, None]).squeeze(1)
    torch.testing.assert_close(seen, wanted, rtol=1e-4, atol=1e-5)


def test_rounds_swaps_and_trace_against_a_plain_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    train, _ = world.points()
    given = torch.rand(4, 90, generator=seeded(5), dtype=torch.float64)
    seen: list[Tensor] = []

    def told(self: Any, w: Tensor, *_: Any) -> Tensor:
        seen.append(w.clone())
        return given[len(seen) - 1]

    monkeypatch.setattr(WorstCaseForget, "_losses_without", told)
    found = WorstCaseForget(size=9, rounds=4, step=1.5, binarise=3).select(
        world.model(), train, rng=seeded(0)
    )
    assert sorted(seen[0].tolist()) == [0.0] * 81 + [1.0] * 9
    w, sets, swaps, trace = seen[0], [set(seen[0].nonzero().flatten().tolist())], [], []
    for k in range(4):
        torch.testing.assert_close(seen[k], w)
        trace.append(float((w * given[k]).sum()) / 9)
        w = stepped(w, given[k], 9, step=1.5, gamma=0.0)
        now = set(sorted(range(90), key=lambda i: (-float(w[i]), i))[:9])
        swaps.append(len(now - sets[-1]))
        sets.append(now)
        if k == 2:
            w = torch.tensor([float(i in now) for i in range(90)]).double()
    assert found.swaps == tuple(swaps)
    assert found.losses == pytest.approx(trace)
    assert found.positions.tolist() == sorted(sets[-1])


# the sets


@pytest.mark.slow
def test_a_retrained_model_knows_the_worst_set_and_not_the_easiest() -> None:
    train, heldout, model = noisy()
    recipe = Supervised(network=lambda: mlp(64, 96, 10), epochs=30, lr=0.05, schedule="constant")
    right = {}
    for which in ("worst", "random", "easiest", "lowest-loss"):
        found = WorstCaseForget(size=90, which=which).select(model, train, rng=seeded(1))  # type: ignore[arg-type]
        request = Request.of(train, heldout, found.positions)
        right[which] = accuracy(recipe.build(request.retain, rng=seeded(7)), request.forget)
        assert (found.agreement == 1) == (which == "lowest-loss")
    assert right["worst"] >= 97
    assert right["worst"] >= right["random"] + 8
    assert right["easiest"] <= right["random"] - 20


def test_controls_are_the_extreme_losses_of_the_model_as_it_is() -> None:
    train, model = world.points()[0], world.model()
    losses = predict(model, train, train.task.losses)
    for which, order in (
        ("lowest-loss", losses.argsort()),
        ("highest-loss", losses.argsort(descending=True)),
    ):
        found = WorstCaseForget(size=7, which=which).select(model, train, rng=seeded(0))  # type: ignore[arg-type]
        assert found.positions.tolist() == sorted(order[:7].tolist())
        assert (found.swaps, found.losses, found.agreement) == ((), (), 1.0)


def test_random_is_random_and_a_share_is_a_number() -> None:
    train, model = world.points()[0], world.model()

    def draw(seed: int) -> Tensor:
        return WorstCaseForget(size=0.2, which="random").select(model, train, rng=seeded(seed)).positions

    assert len(draw(0)) == 18
    assert torch.equal(draw(0), draw(0))
    assert not torch.equal(draw(0), draw(1))


def test_agreement_is_with_the_plain_control_of_its_own_direction() -> None:
    train, model = world.points()[0], world.model()
    losses = predict(model, train, train.task.losses)
    for which, control in (("worst", losses.argsort()[:9]), ("easiest", losses.argsort(descending=True)[:9])):
        found = replace(QUICK, which=which).select(model, train, rng=seeded(0))
        both = set(found.positions.tolist()) & set(control.tolist())
        assert found.agreement == pytest.approx(len(both) / 9)


def test_strata_take_the_same_share_of_every_class() -> None:
    train, model = world.points()[0], world.model()
    for which in ("worst", "random", "lowest-loss"):
        method = WorstCaseForget(size=12, which=which, stratified=True)  # type: ignore[arg-type]
        found = method.select(model, train, rng=seeded(0))
        assert read_labels(train)[found.positions].bincount().tolist() == [4, 4, 4]
    assert shares([50, 30, 20], 7) == [4, 2, 1]
    assert shares([1, 1, 1], 1) == [1, 0, 0]


def test_ties_go_to_the_first() -> None:
    assert top(torch.tensor([1.0, 2.0, 1.0, 1.0]), [(torch.arange(4), 2)]).tolist() == [
        True,
        True,
        False,
        False,
    ]


def test_exact_copies_in_the_rest_are_counted() -> None:
    train, model = world.points()[0], world.model()
    x, y = (torch.cat(parts) for parts in zip(*train.batches(), strict=True))
    losses = predict(model, train, train.task.losses)
    low = losses.argsort()[:4]
    x, y = (
        torch.cat([x, x[low[:2]]]),
        torch.cat([y, (y[low[:2]] + 1) % 3]),
    )  # copies, labelled otherwise: high losses
    found = WorstCaseForget(size=4, which="lowest-loss").select(
        model, of_tensors(x, y, classes=3), rng=seeded(0)
    )
    assert found.positions.tolist() == sorted(low.tolist())
    assert found.twins == 2


def test_the_model_and_its_zeros_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    train, model = world.points()[0], world.model(sparse=True)
    before, masks = world.state(model), []
    inner = module.fit_
    monkeypatch.setattr(module, "fit_", lambda m, *a, **k: (inner(m, *a, **k), masks.append(Mask.of(m))))
    QUICK.select(model, train, rng=seeded(0))
    assert all(torch.equal(before[k], v) for k, v in world.state(model).items())
    assert masks == [Mask.of(model)] * 2


def test_running_statistics_are_not_shaped_by_what_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    train, model, trained = world.points()[0], world.model(batch_norm=True), []
    inner = module.fit_
    monkeypatch.setattr(module, "fit_", lambda m, *a, **k: (inner(m, *a, **k), trained.append(m)))
    QUICK.select(model, train, rng=seeded(0))
    assert torch.equal(trained[0][2].running_mean, model[2].running_mean)


# what is refused


class Flickering(Dataset[Any]):
    """Other examples at each reading."""

    def __init__(self) -> None:
        self.rng = seeded(0)

    def __len__(self) -> int:
        return 30

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return torch.randn(8, generator=self.rng), i % 3


def test_refuses() -> None:
    train, model = world.points()[0], world.model()
    with pytest.raises(InputError, match="size is 90 of 90 examples; at least one must stay"):
        replace(QUICK, size=90).select(model, train, rng=seeded(0))
    with pytest.raises(EmptyDataError, match="WorstCaseForget"):
        QUICK.select(model, train.subset([]), rng=seeded(0))
    with pytest.raises(InputError, match="moved no example in 2 rounds.*Raise step"):
        replace(QUICK, step=1e-6).select(model, train, rng=seeded(0))
    with pytest.raises(
        InputError, match=r"below least = 0.9 of it: sign steps of lr = 5 destroy this network"
    ):
        replace(QUICK, lr=5.0).select(model, train, rng=seeded(0))
    replace(QUICK, lr=5.0, least=0.0).select(model, train, rng=seeded(0))
    with pytest.raises(InputError, match="give other ones at each reading. Take the augmentation out"):
        QUICK.select(model, Data(Flickering(), Classify(3), 8), rng=seeded(0))
    with pytest.raises(InputError, match="WorstCaseForget can train nothing: every parameter is frozen"):
        QUICK.select(world.model().requires_grad_(False), train, rng=seeded(0))
    lopsided = train.subset([0, *range(1, 90, 3)])  # one example of class 0
    with pytest.raises(InputError, match="leaves no example of a class of 1. Take fewer"):
        replace(QUICK, size=28, stratified=True).select(model, lopsided, rng=seeded(0))
    with pytest.raises(InputError, match=r"rng must be a torch.Generator"):
        QUICK.select(model, train, rng=None)  # type: ignore[arg-type]


@pytest.mark.parametrize(("settings", "message"), [
    ({"size": 0}, "size must be"), ({"size": 1.0}, "size must be"), ({"size": -3}, "size must be"),
    ({"which": "hardest"}, "which must be"), ({"step": 0.0}, "step must be above 0"),
    ({"which": "random", "rounds": 2}, "rounds=2 would do nothing with which='random', which is not searched for"),
    ({"which": "lowest-loss", "lr": 0.1}, "lr=0.1 would do nothing"), ({"least": 1.0}, "least must be"),
])  # fmt: skip
def test_refuses_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        WorstCaseForget(**settings)
