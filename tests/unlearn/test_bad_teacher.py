from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from math import log

import pytest
import torch
from torch import Tensor, nn

from tests.contract import world
from unweave import Mask, Request, seeded
from unweave.embedded.digits import of_tensors
from unweave.errors import EmptyDataError, InputError
from unweave.tasks import predict, read_labels
from unweave.unlearn import BadTeacher
from unweave.unlearn import bad_teacher as module
from unweave.unlearn.bad_teacher import taught, untrained

STRONG = BadTeacher(lr=0.01, epochs=12, retain_share=1.0)


def one_class() -> Request:
    """Forget every training example of class 2."""
    train, heldout = world.points()
    return Request.of(train, heldout, (read_labels(train) == 2).nonzero().flatten())


def confidence(model: nn.Module, data) -> float:
    """Mean probability of the true class."""
    return float(predict(model, data).softmax(1).gather(1, read_labels(data)[:, None]).mean())


def test_exact() -> None:
    # student (1/4, 3/4); bad teacher (1/2, 1/2): KL = log(2 / sqrt 3); good teacher (1/4, 3/4): KL = 0.
    student = torch.tensor([[1.0, 3.0], [1.0, 3.0]]).log()
    good, bad = student.clone(), torch.zeros(2, 2)
    one = log(2 / 3**0.5)
    assert taught(student, good, bad, torch.tensor([1.0, 1.0]), 1.0).item() == pytest.approx(one, rel=1e-6)
    assert taught(student, good, bad, torch.tensor([1.0, 0.0]), 1.0).item() == pytest.approx(
        one / 2, rel=1e-6
    )
    assert taught(2 * student, good, bad, torch.tensor([1.0, 1.0]), 2.0).item() == pytest.approx(
        one, rel=1e-6
    )


@pytest.mark.parametrize(("n", "c"), [(1, 2), (7, 5)])
def test_naive(n: int, c: int) -> None:
    s, g, b = torch.randn(3, n, c, generator=seeded(n), dtype=torch.float64)
    u = torch.rand(n, generator=seeded(1), dtype=torch.float64)
    total = torch.zeros((), dtype=torch.float64)
    for i in range(n):
        for k in range(c):
            target = u[i] * torch.softmax(b[i] / 3, 0)[k] + (1 - u[i]) * torch.softmax(g[i] / 3, 0)[k]
            total += target * (torch.log(target) - torch.log(torch.softmax(s[i] / 3, 0)[k]))
    torch.testing.assert_close(taught(s, g, b, u, 3.0), total / n, rtol=1e-12, atol=0.0)


def test_learns_ignorance_against_control(monkeypatch: pytest.MonkeyPatch) -> None:
    model, request = world.model(), one_class()
    edited = STRONG.apply(model, request, rng=seeded(0))
    monkeypatch.setattr(module, "untrained", lambda model, reset, rng: deepcopy(model))
    control = STRONG.apply(model, request, rng=seeded(0))  # both teachers know everything
    assert confidence(control, request.forget) == pytest.approx(confidence(model, request.forget), abs=0.05)
    assert confidence(edited, request.forget) < confidence(control, request.forget) - 0.3
    assert confidence(edited, request.retain) > confidence(control, request.retain) - 0.1


def test_reads_no_label_and_only_a_share_of_the_retain_set() -> None:
    read: set[Tensor] = set()

    class Watching(type(world.request().retain.task)):  # type: ignore[misc]
        def labels(self, batch):
            raise AssertionError("labels were read")

        def outputs(self, model, batch):
            read.update(map(tuple, batch[0].tolist()))  # type: ignore[arg-type]
            return super().outputs(model, batch)

    request = world.request()
    task = Watching(3)
    request = replace(
        request, forget=replace(request.forget, task=task), retain=replace(request.retain, task=task)
    )
    BadTeacher(epochs=2).apply(world.model(), request, rng=seeded(0))
    assert len(read) == len(request.forget) + round(0.3 * len(request.retain))


def test_untrained_has_lost_everything_and_is_governed_by_rng() -> None:
    model = world.model(batch_norm=True)
    first, again, other = (untrained(model, "layers", seeded(s)) for s in (0, 0, 1))
    assert torch.equal(first[1].weight, again[1].weight)
    assert not torch.equal(first[1].weight, other[1].weight)
    assert float((first[1].weight - model[1].weight).detach().abs().mean()) > 0.05
    assert torch.equal(first[2].running_mean, torch.zeros(24))
    shuffled = untrained(model, "shuffle", seeded(0))
    assert not torch.equal(shuffled[1].weight, model[1].weight)
    assert torch.equal(shuffled[1].weight.flatten().sort().values, model[1].weight.flatten().sort().values)


def test_bad_teacher_of_a_pruned_model_is_pruned_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[nn.Module] = []

    def spy(*args) -> nn.Module:
        made.append(untrained(*args))
        return made[-1]

    monkeypatch.setattr(module, "untrained", spy)
    model = world.model(sparse=True)
    BadTeacher(epochs=1).apply(model, world.request(), rng=seeded(0))
    assert Mask.of(made[0]) == Mask.of(model)


class Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale, self.linear = nn.Parameter(torch.ones(8)), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.scale * x)


def test_refuses() -> None:
    for settings, message in [
        ({"epochs": 0}, "epochs"),
        ({"lr": 0.0}, "lr must be above 0"),
        ({"temperature": -1.0}, "temperature"),
        ({"retain_share": 0.0}, "retain_share must be above 0 and at most 1; got 0.0. It keeps the student"),
        ({"reset": "none"}, 'reset must be "layers" or "shuffle"'),
    ]:
        with pytest.raises(InputError, match=message):
            BadTeacher(**settings)  # type: ignore[arg-type]
    request = world.request()
    with pytest.raises(EmptyDataError, match="BadTeacher"):
        BadTeacher().apply(world.model(), replace(request, forget=request.forget.subset([])), rng=seeded(0))
    with pytest.raises(InputError, match=r"cannot initialise the model \(Odd\) afresh.*reset='shuffle'"):
        BadTeacher().apply(Odd(), request, rng=seeded(0))
    edited = BadTeacher(reset="shuffle").apply(model := Odd(), request, rng=seeded(0))
    assert float((edited.linear.weight - model.linear.weight).detach().abs().max()) > 1e-4


def test_naive_first_step_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    # Adam's first step is lr g / (|g| + 1e-8); one full batch, T = 2, the bad teacher given
    x, y = torch.randn(9, 4, generator=seeded(1), dtype=torch.float64), torch.arange(9) % 3
    train = of_tensors(x, y, classes=3, batch_size=9)
    good = nn.Linear(4, 3, dtype=torch.float64)
    bad = nn.Linear(4, 3, dtype=torch.float64)
    monkeypatch.setattr(module, "untrained", lambda model, reset, rng: deepcopy(bad))
    method = BadTeacher(lr=0.01, epochs=1, temperature=2.0, retain_share=1.0)
    edited = method.apply(good, Request.of(train, train, [0, 4]), rng=seeded(0))
    w = good.weight.detach().clone().requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    for i in range(9):
        teacher = bad if i in (0, 4) else good
        p = torch.softmax(teacher(x[i]).detach() / 2, 0)
        q = torch.softmax((w @ x[i] + good.bias.detach()) / 2, 0)
        total = total + sum(p[c] * torch.log(p[c] / q[c]) for c in range(3)) / 9
    (g,) = torch.autograd.grad(total, w)
    torch.testing.assert_close(
        edited.weight.detach(), w.detach() - 0.01 * g / (g.abs() + 1e-8), rtol=1e-9, atol=1e-12
    )


def test_a_small_share_is_still_one_example() -> None:
    read: set[Tensor] = set()

    class Watching(type(world.request().retain.task)):  # type: ignore[misc]
        def outputs(self, model, batch):
            read.update(map(tuple, batch[0].tolist()))  # type: ignore[arg-type]
            return super().outputs(model, batch)

    request = world.request()
    request = replace(
        request,
        forget=replace(request.forget, task=Watching(3)),
        retain=replace(request.retain, task=Watching(3)),
    )
    BadTeacher(epochs=1, retain_share=1e-4).apply(world.model(), request, rng=seeded(0))
    assert len(read) == len(request.forget) + 1


def test_both_teachers_are_in_eval_mode_and_the_student_is_not() -> None:
    network = nn.Sequential(nn.Linear(8, 32), nn.Dropout(0.5), nn.Linear(32, 3))
    seen: set[tuple[int, bool]] = set()
    network[1].register_forward_hook(lambda layer, *_: seen.add((id(layer), layer.training)))
    BadTeacher(epochs=1).apply(network, world.request(), rng=seeded(0))
    assert sorted(training for _, training in seen) == [False, False, True]


def test_the_bad_teacher_of_a_frozen_layer_has_lost_that_too() -> None:
    model = world.model()
    model[1].requires_grad_(False)
    blank = untrained(model, "layers", seeded(0))
    assert float((blank[1].weight - model[1].weight).detach().abs().mean()) > 0.05
    assert not model[1].weight.requires_grad
