from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from functools import partial
from math import log
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.contract import world
from unweave import Mask, Request, Supervised, fit_, seeded
from unweave.embedded.digits import of_tensors
from unweave.embedded.nets import mlp
from unweave.errors import EmptyDataError, InputError
from unweave.tasks import predict, read_labels
from unweave.unlearn import SCRUB, FineTune, _train
from unweave.unlearn import scrub as module
from unweave.unlearn.scrub import by_class, distillation, heldout_error, nearest

STRONG = SCRUB(lr=0.01, weight_decay=0.0, epochs=6, max_epochs=4, forget_batch_size=8)


def one_class() -> Request:
    """Forget every training example of class 2."""
    train, heldout = world.points()
    return Request.of(train, heldout, (read_labels(train) == 2).nonzero().flatten())


def error(model: nn.Module, data: Any) -> float:
    return 1 - float((predict(model, data).argmax(1) == read_labels(data)).double().mean())


def drift(model: nn.Module, teacher: nn.Module, data: Any) -> float:
    """Mean KL(teacher || model) in nats."""
    p, q = predict(teacher, data).softmax(1), predict(model, data).log_softmax(1)
    return float((p * (p.log() - q)).sum(1).mean())


def test_exact() -> None:
    # teacher (1/2, 1/2), student (1/4, 3/4): KL = 1/2 log 2 + 1/2 log(2/3) = log(2 / sqrt 3). Two equal rows:
    # the same, since the mean is over examples. At T = 2 with logits twice as large: T^2 = 4 times as much.
    by_hand = log(2 / 3**0.5)
    teacher, student = torch.zeros(2, 2), torch.tensor([[1.0, 3.0], [1.0, 3.0]]).log()
    assert distillation(teacher, student, 1.0).item() == pytest.approx(by_hand, rel=1e-6)
    assert distillation(teacher, 2 * student, 2.0).item() == pytest.approx(4 * by_hand, rel=1e-6)


def naive_scrub(weight: Tensor, method: SCRUB, f: Tensor, r: Tensor, labels: Tensor) -> Tensor:
    """Full-batch descent written from the paper, one example and class at a time."""
    s, t = weight.clone(), weight.clone()
    T = method.temperature  # noqa: N806

    def kl(s: Tensor, x: Tensor) -> Tensor:
        total = torch.zeros((), dtype=s.dtype)
        for row in x:
            p, q = torch.softmax(t @ row / T, 0), torch.softmax(s @ row / T, 0)
            for c in range(len(p)):
                total = total + p[c] * torch.log(p[c] / q[c])
        return T**2 * total / len(x)

    for epoch in range(method.epochs):
        rate = method.lr * method.decay ** sum(epoch >= at for at in method.decay_epochs)
        if epoch < method.max_epochs:
            s.requires_grad_()
            (g,) = torch.autograd.grad(-kl(s, f), s)
            s = (s - rate * g).detach()
        s.requires_grad_()
        ce = -sum(torch.log_softmax(s @ x, 0)[y] for x, y in zip(r, labels, strict=True)) / len(r)
        (g,) = torch.autograd.grad(method.alpha * kl(s, r) + method.gamma * ce, s)
        s = (s - rate * g).detach()
    return s


@pytest.mark.parametrize(("n", "d", "temperature"), [(3, 2, 1.0), (5, 4, 3.0)])
def test_naive(n: int, d: int, temperature: float) -> None:
    rng = seeded(n)
    x = torch.randn(2 * n, d, generator=rng, dtype=torch.float64)
    y = torch.arange(2 * n) % 3
    train = of_tensors(x, y, classes=3, batch_size=2 * n)
    request = Request.of(train, train, list(range(n)))
    model = nn.Linear(d, 3, bias=False, dtype=torch.float64)
    method = SCRUB(
        optimizer="sgd",
        momentum=0,
        weight_decay=0,
        lr=0.5,
        epochs=4,
        max_epochs=3,
        temperature=temperature,
        alpha=0.4,
        gamma=0.7,
        decay_epochs=(2, 3),
        decay=0.5,
    )
    ours = method.apply(model, request, rng=seeded(0))
    before, after = model.weight.detach(), ours.weight.detach()
    theirs = naive_scrub(before, method, x[:n], x[n:], y[n:])
    torch.testing.assert_close(after, theirs, rtol=1e-9, atol=1e-10)
    assert float((after - before).abs().max()) > 0.01


def test_forgets_and_keeps_against_control() -> None:
    model, request = world.model(), one_class()
    edited = STRONG.apply(model, request, rng=seeded(0))
    control = replace(STRONG, max_epochs=0, forget_batch_size=32).apply(model, request, rng=seeded(0))
    assert drift(edited, model, request.forget) > 5 * drift(control, model, request.forget)
    assert error(edited, request.forget) > error(control, request.forget) + 0.3
    assert error(edited, request.retain) < 0.1


def test_a_teacher_that_is_the_student_teaches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, request = world.model(), one_class()
    moved = drift(STRONG.apply(model, request, rng=seeded(0)), model, request.forget)
    shared: list[nn.Module] = []

    def same(model: nn.Module) -> nn.Module:  # what a shallow copy amounts to
        shared.append(shared[0] if shared else deepcopy(model))
        return shared[-1]

    monkeypatch.setattr(module, "copied", same)
    monkeypatch.setattr(nn.Module, "requires_grad_", lambda self, flag=True: self)
    control = STRONG.apply(model, request, rng=seeded(0))
    assert moved > 5 * drift(control, model, request.forget)


def test_teacher_is_in_eval_mode() -> None:
    # with dropout a teacher in train mode would differ from itself, and the first max step would have a slope
    network = nn.Sequential(nn.Linear(8, 32), nn.Dropout(0.5), nn.Linear(32, 3))
    seen: set[tuple[int, bool]] = set()
    network[1].register_forward_hook(lambda layer, *_: seen.add((id(layer), layer.training)))
    SCRUB(epochs=1, max_epochs=1).apply(network, world.request(), rng=seeded(0))
    assert sorted(training for _, training in seen) == [
        False,
        True,
    ]  # two networks, each always in its own mode


@pytest.mark.parametrize("max_epochs", [0, 2, 3])
def test_ends_with_a_min_step(monkeypatch: pytest.MonkeyPatch, max_epochs: int) -> None:
    passes: list[str] = []

    def spy(*args: Any, **settings: Any) -> Any:
        passes.append(settings["loop"].label)
        return fit_(*args, **settings)

    monkeypatch.setattr(_train, "fit_", spy)
    SCRUB(epochs=3, max_epochs=max_epochs).apply(world.model(), world.request(), rng=seeded(0))
    assert passes.count("scrub max") == max_epochs
    assert passes.count("scrub min") == 3
    assert passes[-1] == "scrub min"


def test_max_steps_leave_norm_statistics() -> None:
    model, request = world.model(batch_norm=True), world.request()
    edited = SCRUB(epochs=2, max_epochs=2, lr=1e-12).apply(model, request, rng=seeded(1))
    control = SCRUB(epochs=2, max_epochs=0, lr=1e-12).apply(model, request, rng=seeded(1))
    # as many updates as min steps, and no more
    assert int(edited[2].num_batches_tracked) == int(control[2].num_batches_tracked)


def test_without_its_terms_it_is_fine_tuning() -> None:
    model, request = world.model(), world.request()
    scrub = SCRUB(optimizer="sgd", epochs=1, max_epochs=0, alpha=0, gamma=1, lr=0.05, weight_decay=5e-4)
    plain = FineTune(epochs=1, lr=0.05).apply(model, request, rng=seeded(2))
    ours = scrub.apply(model, request, rng=seeded(2))
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        assert torch.equal(a, b)


def test_rewind_returns_the_epoch_nearest_the_heldout_error() -> None:
    assert nearest([0.0, 0.4, 0.2, 0.4, 0.9], 0.35) == 3
    rng = seeded(0)  # labels are noise, so that held-out errors are large and forgetting takes several epochs
    inputs, labels = torch.randn(120, 8, generator=rng), torch.randint(3, (120,), generator=rng)
    train, heldout = (of_tensors(inputs[at], labels[at], batch_size=16) for at in (slice(60), slice(60, 120)))
    request = Request.of(train, heldout, list(range(15)))
    model = Supervised(network=partial(mlp, 8, 48, 3), epochs=60, lr=0.1).build(train, rng=seeded(0))
    method = SCRUB(lr=0.005, weight_decay=0.0, epochs=5, max_epochs=3, forget_batch_size=4)
    runs = [
        replace(method, epochs=n, max_epochs=min(3, n)).apply(model, request, rng=seeded(4))
        for n in range(1, 6)
    ]
    labels, wanted = read_labels(heldout), read_labels(request.forget)
    right = predict(runs[-1], request.heldout).argmax(1) == labels
    reference = sum(
        float((~right[labels == c]).double().mean()) * float((wanted == c).double().mean()) for c in range(3)
    )
    gaps = [abs(error(run, request.forget) - reference) for run in runs]
    rewound = replace(method, rewind=True).apply(model, request, rng=seeded(4))
    assert max(gaps) > min(gaps) + 0.1  # the epochs differ, so that the choice matters
    assert abs(error(rewound, request.forget) - reference) == pytest.approx(min(gaps))
    assert any(
        all(torch.equal(a, b) for a, b in zip(run.parameters(), rewound.parameters(), strict=True))
        for run in runs
    )


def test_only_moves_what_it_may() -> None:
    model, request = world.model(), world.request()
    only = Mask({"1.weight": torch.rand(model[1].weight.shape, generator=seeded(0)) < 0.5})
    edited = STRONG.apply(model, request, rng=seeded(0), only=only)
    moved = edited[1].weight != model[1].weight
    assert not moved[~only.keep["1.weight"]].any()
    assert moved.any()


def test_sizes() -> None:
    assert SCRUB.of_size(9_999) == SCRUB()
    assert SCRUB.of_size(10_000) == SCRUB.large()
    assert (SCRUB.large().temperature, SCRUB.large().gamma, SCRUB.large().alpha) == (4.0, 0.99, 0.001)


def test_refuses() -> None:
    for settings, message in [
        ({"max_epochs": 11}, "max_epochs must be at most epochs = 10; got 11"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"alpha": 0.0, "gamma": 0.0}, "must not both be 0"),
        ({"alpha": -1.0}, "alpha must be at least 0"),
        ({"forget_batch_size": 0}, "forget_batch_size"),
        ({"optimizer": "lion"}, 'must be "adam" or "sgd"'),
        ({"lr": 0.0}, "lr must be above 0"),
    ]:
        with pytest.raises(InputError, match=message):
            SCRUB(**settings)  # type: ignore[arg-type]
    request = world.request()
    model = world.model()
    with pytest.raises(EmptyDataError, match="SCRUB"):
        SCRUB().apply(model, replace(request, forget=request.forget.subset([])), rng=seeded(0))
    some = request.heldout.subset((read_labels(request.heldout) != 2).nonzero().flatten())
    with pytest.raises(InputError, match="none of class 2"):
        SCRUB(rewind=True).apply(model, replace(request, heldout=some), rng=seeded(0))
    frozen = deepcopy(model).requires_grad_(False)
    for method in (SCRUB(optimizer="adam"), SCRUB(optimizer="sgd")):
        with pytest.raises(InputError, match="every parameter is frozen"):
            method.apply(frozen, request, rng=seeded(0))


def test_rewind_reference_is_the_error_on_like_examples_by_hand() -> None:
    # one-hot inputs are their own logits: held out, class 0 is wrong 1 time in 4, class 1 3 in 4, class 2 always.
    # forgotten: 3 of class 0 and 1 of class 1, so 3/4 * 25 % + 1/4 * 75 % = 37.5 %; the accuracy would be 62.5 %
    shown = [0, 0, 0, 1, 1, 0, 0, 0, 0]
    truth = [0, 0, 0, 0, 1, 1, 1, 1, 2]
    heldout = of_tensors(torch.eye(3)[torch.tensor(shown)], torch.tensor(truth), classes=3)
    forget = of_tensors(torch.eye(3)[torch.tensor([0, 1, 0, 0])], torch.tensor([0, 1, 0, 0]), classes=3)
    alike = by_class(Request(forget, forget, heldout))
    assert [share for share, _ in alike] == [0.75, 0.25]
    assert [len(part) for _, part in alike] == [4, 4]
    assert heldout_error(nn.Identity(), alike) == pytest.approx(37.5)


def test_rewind_takes_errors_not_accuracies(monkeypatch: pytest.MonkeyPatch) -> None:
    # epochs err on 0, 40 and 100 % of the forget set, the finished student on 10 % held out: 0 is nearest. An
    # accuracy of 90 % in its place would choose the last, accuracies in place of the errors the last as well.
    monkeypatch.setattr(module, "accuracy", lambda model, data: 100 - model.wrong)
    kept = module._Rewinder(world.request())
    student = world.model()
    for mark, wrong in enumerate((0.0, 40.0, 100.0)):
        student.wrong = wrong
        with torch.no_grad():
            student[1].bias.fill_(mark)
        kept.keep(student)
    student.wrong = 10.0
    kept.rewind_(student)
    assert kept.errors == [0.0, 40.0, 100.0]
    assert torch.equal(student[1].bias, torch.zeros(24))


def test_nearest_of_equals_is_the_last() -> None:
    assert nearest([30.0, 50.0, 30.0, 90.0], 40.0) == 2
    assert nearest([1.0], 99.0) == 0


@pytest.mark.parametrize("given", [8, None])
def test_batch_sizes_of_both_steps(monkeypatch: pytest.MonkeyPatch, given: int | None) -> None:
    seen: dict[str, set[int]] = {}

    def spy(model: nn.Module, data: Any, *args: Any, **settings: Any) -> Any:
        seen.setdefault(settings["loop"].label, set()).add(data.batch_size)
        return fit_(model, data, *args, **settings)

    monkeypatch.setattr(_train, "fit_", spy)
    method = SCRUB(epochs=1, max_epochs=1, forget_batch_size=given)
    method.apply(world.model(), world.request(), rng=seeded(0))
    assert seen == {"scrub max": {given or 16}, "scrub min": {16}}


def test_optimisers_have_their_settings() -> None:
    # one full-batch min step with alpha = 0: Adam moves by lr g / (|g| + 1e-8), g with the penalty 0.3 w in it;
    # SGD's second step has momentum
    x, y = torch.randn(6, 4, generator=seeded(3), dtype=torch.float64), torch.arange(6) % 3
    data = of_tensors(x, y, classes=3, batch_size=6)
    request = Request(data, data, data)
    model = nn.Linear(4, 3, bias=False, dtype=torch.float64)

    def slope(w: Tensor) -> Tensor:
        p = torch.softmax(x @ w.T, 1)
        p[torch.arange(6), y] -= 1
        return p.T @ x / 6 + 0.3 * w

    w = model.weight.detach()
    given = {"max_epochs": 0, "alpha": 0.0, "weight_decay": 0.3, "lr": 0.05}
    adam = SCRUB(epochs=1, **given).apply(model, request, rng=seeded(0))
    g = slope(w)
    torch.testing.assert_close(adam.weight.detach(), w - 0.05 * g / (g.abs() + 1e-8), rtol=1e-9, atol=1e-12)
    sgd = SCRUB(epochs=2, optimizer="sgd", momentum=0.6, **given).apply(model, request, rng=seeded(0))
    after = w - 0.05 * g
    after = after - 0.05 * (0.6 * g + slope(after))
    torch.testing.assert_close(sgd.weight.detach(), after, rtol=1e-9, atol=1e-12)
