from __future__ import annotations

from functools import partial
from math import exp, log

import pytest
import torch
from torch import nn

from tests.contract import world
from unweave import Data, Request, seeded
from unweave.embedded.digits import of_tensors
from unweave.errors import EmptyDataError, InputError
from unweave.fit import recording
from unweave.tasks import accuracy, predict, read_labels
from unweave.unlearn import GradientAscent
from unweave.unlearn._train import expected_accuracy


def two_logits(weight: float) -> tuple[nn.Linear, Request]:
    """Logits (a x, -a x) of the one point x = 1, true class 0."""
    model = nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[weight], [-weight]]))
    one = of_tensors(torch.ones(1, 1), torch.tensor([0]), classes=2)
    return model, Request(one, one, one)


def test_exact() -> None:
    # a = 0: p = (1/2, 1/2), gradient p - onehot(0) = (-1/2, 1/2); ascent adds 0.1 of it: (-0.05, 0.05)
    model, request = two_logits(0.0)
    settings = {"epochs": 1, "lr": 0.1, "momentum": 0.0, "weight_decay": 0.0, "target": 0.0, "cap": None}
    edited = GradientAscent(**settings).apply(model, request, rng=seeded(0))
    torch.testing.assert_close(edited.weight, torch.tensor([[-0.05], [0.05]]))


def test_naive() -> None:
    # three full-batch steps of heavy-ball ascent, straight from the definition, in float64
    model, request = world.model().double(), world.request()
    request = Request(Data(request.forget.examples, request.forget.task, 50), request.retain, request.heldout)
    method = GradientAscent(epochs=3, lr=0.02, momentum=0.9, weight_decay=0.0, target=0.0, cap=None)
    edited = method.apply(model, request, rng=seeded(0))
    (batch,) = request.forget.batches()
    weights = [p.detach().clone() for p in model.parameters()]
    speed = [torch.zeros_like(w) for w in weights]
    slow = world.model().double()
    for _ in range(3):
        for p, w in zip(slow.parameters(), weights, strict=True):
            p.data = w.clone()
        loss = -slow(batch[0].double()).log_softmax(1)[torch.arange(len(batch[1])), batch[1]].mean()
        for i, g in enumerate(torch.autograd.grad(loss, list(slow.parameters()))):
            speed[i] = 0.9 * speed[i] + g
            weights[i] = weights[i] + 0.02 * speed[i]
    for p, w in zip(edited.parameters(), weights, strict=True):
        torch.testing.assert_close(p, w, rtol=1e-6, atol=1e-9)


def test_stops_at_the_target_and_not_before() -> None:
    model, request = world.model(), world.request()
    shares = []
    for epochs in range(1, 30):
        method = GradientAscent(epochs=epochs, lr=0.1, target=0.5)
        shares.append(accuracy(method.apply(model, request, rng=seeded(0)), request.forget))
    first = next(i for i, share in enumerate(shares) if share <= 50)
    assert 0 < first < 25
    assert all(share > 50 for share in shares[:first])
    assert set(shares[first:]) == {shares[first]}  # more epochs allowed, none made
    free = GradientAscent(epochs=29, lr=0.1, target=0.0, cap=None).apply(model, request, rng=seeded(0))
    assert accuracy(free, request.forget) < shares[-1]  # the control without a brake goes on


def test_capped_examples_are_left_alone() -> None:
    # a = -2: loss ln(1 + e^4) = 4.018 > ln 2, so nothing is climbed; uncapped it is
    model, request = two_logits(-2.0)
    settings = {"epochs": 3, "lr": 0.5, "weight_decay": 0.0, "target": 0.0}
    still = GradientAscent(**settings).apply(model, request, rng=seeded(0))
    assert torch.equal(still.weight, model.weight)
    moved = GradientAscent(**settings, cap=5.0).apply(model, request, rng=seeded(0))
    assert not torch.equal(moved.weight, model.weight)
    above, below = (
        two_logits(a)[1].forget.task.losses(two_logits(a)[0], next(iter(request.forget.batches())))
        for a in (-2.0, 0.5)
    )
    assert float(above.detach()) > log(2) > float(below.detach())


def test_default_target_is_what_a_model_without_the_data_would_reach() -> None:
    model, request = world.model(), world.request()
    assert expected_accuracy(model, request) == pytest.approx(accuracy(model, request.heldout))
    train, heldout = world.points()
    one_class = Request.of(train, heldout, (read_labels(train) == 1).nonzero().flatten())
    assert expected_accuracy(model, one_class) == 0.0
    half = (read_labels(train) == 1).nonzero().flatten().tolist() + [0, 2]
    mixed = Request.of(train, heldout, half)
    known = heldout.subset((read_labels(heldout) != 1).nonzero().flatten())
    assert expected_accuracy(model, mixed) == pytest.approx(2 / len(half) * accuracy(model, known))


def test_does_not_read_the_retain_set_when_given_a_target() -> None:
    model, request = world.model(), world.request()
    empty = request.retain.subset([])
    method = GradientAscent(lr=0.01, target=0.4)
    a = method.apply(model, request, rng=seeded(0))
    b = method.apply(model, Request(request.forget, empty, empty), rng=seeded(0))
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    with pytest.raises(EmptyDataError, match="retain"):
        GradientAscent().apply(model, Request(request.forget, empty, request.heldout), rng=seeded(0))
    with pytest.raises(EmptyDataError, match="held-out"):
        GradientAscent().apply(model, Request(request.forget, request.retain, empty), rng=seeded(0))


def test_frozen_norms_keep_their_statistics() -> None:
    model, request = world.model(batch_norm=True), world.request()
    kept, followed = (
        GradientAscent(lr=0.01, epochs=3, norms=n).apply(model, request, rng=seeded(0))
        for n in ("frozen", "train")
    )
    assert torch.equal(kept[2].running_mean, model[2].running_mean)
    assert not torch.equal(followed[2].running_mean, model[2].running_mean)


def test_loss_rises_on_forget() -> None:
    model, request = world.model(), world.request()
    edited = GradientAscent(lr=0.03, target=0.5).apply(model, request, rng=seeded(0))
    before, after = (
        float(predict(m, request.forget, request.forget.task.losses).mean()) for m in (model, edited)
    )
    assert after > before + 0.2


def test_refuses() -> None:
    with pytest.raises(InputError, match="every parameter is frozen"):
        GradientAscent().apply(world.model().requires_grad_(False), world.request(), rng=seeded(0))
    for bad, message in [
        (partial(GradientAscent, target=1.0), "target"),
        (partial(GradientAscent, target=-0.1), "target"),
        (partial(GradientAscent, cap=0.0), "cap"),
        (partial(GradientAscent, cap="high"), "cap"),
        (partial(GradientAscent, clip=0.0), "clip"),
        (partial(GradientAscent, epochs=0), "epochs"),
    ]:
        with pytest.raises(InputError, match=message):
            bad()


def test_clip_is_the_longest_gradient() -> None:
    # the gradient is (-1/2, 1/2), of norm sqrt(1/2); cut to 0.1 a step of lr 0.5 goes 0.05 along it
    model, request = two_logits(0.0)
    settings = {"epochs": 1, "lr": 0.5, "momentum": 0.0, "weight_decay": 0.0, "target": 0.0, "cap": None}
    cut = GradientAscent(**settings, clip=0.1).apply(model, request, rng=seeded(0))
    torch.testing.assert_close(cut.weight, 0.05 * torch.tensor([[-(0.5**0.5)], [0.5**0.5]]))
    whole = GradientAscent(**settings, clip=0.8).apply(model, request, rng=seeded(0))
    torch.testing.assert_close(whole.weight, torch.tensor([[-0.25], [0.25]]))


def test_weight_decay_still_pulls_to_zero() -> None:
    # ascent of (-1/2, 1/2) p-weighted: at a = 1, p1 = 1 / (1 + e^2): gradient (-p1, p1); decay 0.2 w
    model, request = two_logits(1.0)
    settings = {"epochs": 1, "lr": 0.1, "momentum": 0.0, "target": 0.0, "cap": None}
    edited = GradientAscent(**settings, weight_decay=0.2).apply(model, request, rng=seeded(0))
    p = 1 / (1 + exp(2))
    torch.testing.assert_close(edited.weight, torch.tensor([[1 - 0.1 * p - 0.02], [-1 + 0.1 * p + 0.02]]))


def test_chance_is_the_log_of_the_classes() -> None:
    # logits (0, 0, c): class 0 has loss ln(2 + e^c), a little below ln 3 or a little above
    one = of_tensors(torch.ones(1, 1), torch.tensor([0]), classes=3)
    for c, moves in ((-0.01, True), (0.01, False)):
        model = nn.Linear(1, 3, bias=False)
        with torch.no_grad():
            model.weight.copy_(torch.tensor([[0.0], [0.0], [c]]))
        method = GradientAscent(epochs=1, lr=0.1, weight_decay=0.0, target=0.0)
        edited = method.apply(model, Request(one, one, one), rng=seeded(0))
        assert torch.equal(edited.weight, model.weight) != moves


def test_target_is_a_share_met_at_the_end_of_an_epoch() -> None:
    # two examples of one input, so one of them is wrong from the start: 50 % is at 0.5 and above 0.49.
    # in batches of one: both of an epoch are gone through before the training ends
    model = nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0], [-1.0]]))
    two = of_tensors(torch.ones(2, 1), torch.tensor([0, 1]), classes=2, batch_size=1)
    for target, steps in ((0.5, 2), (0.49, 8)):
        with recording() as done:
            method = GradientAscent(epochs=4, lr=1e-9, target=target)
            method.apply(model, Request(two, two, two), rng=seeded(0))
        assert done[0].steps == steps
