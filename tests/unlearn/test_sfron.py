from __future__ import annotations

from dataclasses import replace
from math import cos, exp, pi

import pytest
import torch
from torch import Tensor, nn

from tests.contract import world
from unweave import Request, resumable, seeded
from unweave.embedded.digits import of_tensors
from unweave.errors import EmptyDataError, InputError
from unweave.tasks import predict, read_labels
from unweave.unlearn import SFRon
from unweave.unlearn.sfron import Interleaved, adaptive_weights, fisher_mask

STRONG = SFRon(lr=0.05, epochs=4)


def one_class() -> Request:
    """Forget every training example of class 2."""
    train, heldout = world.points()
    return Request.of(train, heldout, (read_labels(train) == 2).nonzero().flatten())


def test_exact() -> None:
    # CE (1, 4, 16), lambda 1/2: 1, 1/2, 1/4, mean 7/12 -> 12/7, 6/7, 3/7
    weights = adaptive_weights(torch.tensor([1.0, 4.0, 16.0], requires_grad=True), 0.5)
    torch.testing.assert_close(weights, torch.tensor([12 / 7, 6 / 7, 3 / 7]))
    assert not weights.requires_grad
    assert adaptive_weights(torch.tensor([3.0, 0.1]), 0.0).tolist() == [1.0, 1.0]
    chosen = fisher_mask({"w": torch.tensor([2.0, 1.0, 0.0, 1.0])}, {"w": torch.tensor([1.0, 2.0, 0.0, 1.0])})
    assert chosen.keep["w"].tolist() == [True, False, True, True]


def test_order_of_steps_and_restart() -> None:
    x = torch.arange(10.0)[:, None]
    forget = of_tensors(x[:3], torch.tensor([0, 1, 0]), batch_size=2)
    retain = of_tensors(x[3:], torch.arange(7) % 2, batch_size=3)
    steps = Interleaved(forget, retain, every=2, passes=2)  # 6 batches of R, 3 of F

    def read(start: int) -> list[tuple[bool, list[float]]]:
        return [(a, b[0].flatten().tolist()) for a, b in steps.batches(seeded(3), start=start)]

    whole = read(0)
    assert [a for a, _ in whole] == [True, False, False] * 3
    assert len(steps) == 9
    assert sorted(sum((b for a, b in whole if not a), [])) == sorted(2 * x[3:].flatten().tolist())
    assert set(whole[0][1] + whole[3][1]) == {0.0, 1.0, 2.0}
    for start in range(10):
        assert read(start) == whole[start:]


def naive_sfron(w: Tensor, method: SFRon, f: tuple[Tensor, Tensor], r: tuple[Tensor, Tensor]) -> Tensor:
    """Full batches of F and R; written from the update rule, one example at a time."""

    def losses(w: Tensor, data: tuple[Tensor, Tensor]) -> list[Tensor]:
        return [-torch.log_softmax(w @ x, 0)[y] for x, y in zip(*data, strict=True)]

    def gradient(w: Tensor, data: tuple[Tensor, Tensor], exponent: float) -> Tensor:
        w = w.detach().requires_grad_()
        each = losses(w, data)
        raw = [float(v.detach()) ** -exponent for v in each]
        total = sum(v * e for v, e in zip(raw, each, strict=True)) / sum(raw)  # mean 1 weights, mean over n
        return torch.autograd.grad(total, w)[0]

    mask = (gradient(w, f, 0.0) ** 2 >= gradient(w, r, 0.0) ** 2).to(w)
    ascents = -(-method.epochs // method.every)
    velocity, total = torch.zeros_like(w), method.epochs + ascents
    for t in range(total):
        fall = 0.5 * (1 + cos(pi * t / total))
        if t % (method.every + 1) == 0:
            g = -method.coefficient * fall * gradient(w, f, method.exponent) * mask
            g = g * min(1.0, method.clip / float(g.norm()))
        else:
            g = gradient(w, r, 0.0)
        velocity = method.momentum * velocity + g + method.weight_decay * w
        w = w - method.lr * fall * velocity
    return w


@pytest.mark.parametrize("clip", [0.3, 1e6])
def test_naive(clip: float) -> None:
    x, y = torch.randn(8, 4, generator=seeded(2), dtype=torch.float64), torch.arange(8) % 3
    data = of_tensors(x, y, classes=3, batch_size=8)
    model = nn.Linear(4, 3, bias=False, dtype=torch.float64)
    method = SFRon(epochs=5, every=2, lr=0.2, coefficient=3.0, clip=clip)
    ours = method.apply(model, Request.of(data, data, [0, 1, 2]), rng=seeded(0)).weight.detach()
    theirs = naive_sfron(model.weight.detach(), method, (x[:3], y[:3]), (x[3:], y[3:]))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)  # torch's clipping adds 1e-6 to the norm


def test_forgets_and_keeps_against_control() -> None:
    model, request = world.model(), one_class()
    right = lambda m, d: float((predict(m, d).argmax(1) == read_labels(d)).double().mean())  # noqa: E731
    edited = STRONG.apply(model, request, rng=seeded(0))
    control = replace(STRONG, coefficient=0.0).apply(model, request, rng=seeded(0))
    assert right(edited, request.forget) < right(control, request.forget) - 0.5
    assert right(edited, request.retain) > 0.85


def test_ascent_leaves_norm_statistics() -> None:
    model, request = world.model(batch_norm=True), world.request()
    edited = STRONG.apply(model, request, rng=seeded(0))
    assert (
        int(edited[2].num_batches_tracked) - int(model[2].num_batches_tracked) == 4 * 5
    )  # passes x retain batches


def test_resumes_to_the_same_bits(tmp_path) -> None:
    model, request = world.model(), world.request()
    whole = STRONG.apply(model, request, rng=seeded(0))
    with resumable(tmp_path):
        STRONG.apply(model, request, rng=seeded(0))
    with resumable(tmp_path):
        again = STRONG.apply(model, request, rng=seeded(0))
    assert torch.equal(whole[1].weight, again[1].weight)


def test_refuses() -> None:
    for settings, message in [
        ({"epochs": 0}, "epochs"),
        ({"every": 0}, "every must be a whole number at least 1; got 0. It is the retain steps"),
        ({"clip": 0.0}, "clip must be above 0"),
        ({"coefficient": -1.0}, "coefficient must be at least 0"),
        ({"exponent": -1.0}, "exponent must be at least 0"),
    ]:
        with pytest.raises(InputError, match=message):
            SFRon(**settings)  # type: ignore[arg-type]
    request = world.request()
    with pytest.raises(EmptyDataError, match="SFRon"):
        SFRon().apply(world.model(), replace(request, forget=request.forget.subset([])), rng=seeded(0))
    with pytest.raises(InputError, match="every parameter is frozen"):
        SFRon().apply(world.model().requires_grad_(False), request, rng=seeded(0))


def test_each_step_s_coefficient_and_rate_fall_together() -> None:
    # a retain set without gradient at weight decay 0: the whole movement is the ascents'. Logits w x, w = 0, x = 1,
    # class 0: gradient (-1/2, 1/2); up by lr f c f / 2 at each, f = (1 + cos(pi t / 4)) / 2 at t = 0 and 2 of 4
    forget = of_tensors(torch.ones(1, 1), torch.tensor([0]), classes=2)
    retain = of_tensors(torch.zeros(1, 1), torch.tensor([0]), classes=2)
    model = nn.Linear(1, 2, bias=False)
    nn.init.zeros_(model.weight)
    method = SFRon(epochs=2, every=1, lr=0.1, momentum=0.0, weight_decay=0.0, coefficient=2.0, exponent=0.0)
    edited = method.apply(model, Request(forget, retain, retain), rng=seeded(0))
    first = -0.1 * 2.0 * 0.5
    p1 = 1 / (1 + exp(2 * first))
    second = first - 0.1 * 0.5 * 2.0 * 0.5 * p1
    torch.testing.assert_close(edited.weight, torch.tensor([[second], [-second]]))


def test_weights_of_tiny_losses_are_bounded() -> None:
    # 0 counts as 1e-8: (1e-8)^-1/2 = 1e4 against 1: mean (1e4 + 1) / 2
    weights = adaptive_weights(torch.tensor([0.0, 1.0], dtype=torch.float64), 0.5)
    torch.testing.assert_close(weights, torch.tensor([2e4, 2.0], dtype=torch.float64) / (1e4 + 1))


def test_a_weight_without_any_gradient_is_salient() -> None:
    found = fisher_mask({"w": torch.tensor([0.0, 0.0])}, {"w": torch.tensor([0.0, 1e-3])})
    assert found.keep["w"].tolist() == [True, False]
