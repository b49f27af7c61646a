from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.contract import world
from unweave import Request, seeded
from unweave.embedded.digits import of_tensors
from unweave.errors import EmptyDataError, InputError
from unweave.tasks import predict, read_labels
from unweave.unlearn import BoundaryExpand
from unweave.unlearn.boundary_expand import classifier, widened

STRONG = BoundaryExpand(lr=0.01, epochs=10)


def test_exact() -> None:
    narrow = nn.Linear(2, 3)
    narrow.bias.requires_grad_(False)
    wide = widened(narrow, seeded(0))
    assert wide.weight.shape == (4, 2)
    assert torch.equal(wide.weight[:3], narrow.weight)
    assert torch.equal(wide.bias[:3], narrow.bias)
    assert (
        0 < float(wide.weight[3].detach().abs().max()) <= 2**-0.5
    )  # torch's own initialisation: uniform within 1 / sqrt(2)
    assert (wide.weight.requires_grad, wide.bias.requires_grad) == (True, False)


def test_naive() -> None:
    # one full-batch step of descent on -log softmax(wide x)[shadow], one example at a time
    x, y = torch.randn(6, 4, generator=seeded(1), dtype=torch.float64), torch.arange(6) % 3
    data = of_tensors(x, y, classes=3, batch_size=6)
    model = nn.Sequential(
        nn.Linear(4, 5, dtype=torch.float64), nn.Tanh(), nn.Linear(5, 3, bias=False, dtype=torch.float64)
    )
    method = BoundaryExpand(lr=0.3, momentum=0, weight_decay=0, epochs=1)
    edited = method.apply(model, Request.of(data, data, [0, 2, 3]), rng=seeded(5))
    body, head = model[0], widened(model[2], seeded(5)).weight.detach().clone().requires_grad_()
    losses = [-torch.log_softmax(head @ torch.tanh(body.weight @ x[i] + body.bias), 0)[3] for i in (0, 2, 3)]
    g_body, g_head = torch.autograd.grad(sum(losses) / 3, [body.weight, head])
    torch.testing.assert_close(edited[2].weight, (head - 0.3 * g_head)[:3], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(edited[0].weight, body.weight - 0.3 * g_body, rtol=1e-10, atol=1e-12)


def test_returns_the_original_shape_and_keeps_the_input() -> None:
    model = world.model(batch_norm=True)
    edited = STRONG.apply(model, world.request(), rng=seeded(0))
    assert [(n, p.shape) for n, p in edited.named_parameters()] == [
        (n, p.shape) for n, p in model.named_parameters()
    ]
    assert (edited[-1].out_features, model[-1].out_features) == (3, 3)
    assert predict(edited, world.request().forget).shape == (12, 3)
    assert torch.equal(edited[2].running_mean, model[2].running_mean)


def test_pulls_examples_out_of_their_class_against_control() -> None:
    model, request = world.model(), world.request()
    labels = read_labels(request.forget)
    own = lambda m: float(predict(m, request.forget).gather(1, labels[:, None]).mean())  # noqa: E731
    edited = STRONG.apply(model, request, rng=seeded(0))
    # control: the same steps towards a class that exists leave some class's logits up
    assert own(edited) < own(model) - 2
    right = (predict(edited, request.retain).argmax(1) == read_labels(request.retain)).double().mean()
    assert right > 1 / 3


def test_named_layer_and_refusals() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.aside = nn.Linear(8, 3), nn.Linear(8, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(x)

    request = world.request()
    with pytest.raises(InputError, match=r"aside has 5 outputs and there are 3 classes.*head, aside"):
        STRONG.apply(Two(), request, rng=seeded(0))
    edited = replace(STRONG, layer="head").apply(model := Two(), request, rng=seeded(0))
    assert float((edited.head.weight - model.head.weight).detach().abs().max()) > 1e-3
    with pytest.raises(InputError, match="found no Linear 'tail'; the model has: head, aside"):
        classifier(Two(), 3, "tail")
    with pytest.raises(InputError, match="the model has: none"):
        classifier(nn.Sequential(nn.Conv1d(1, 1, 1)), 3)
    with pytest.raises(InputError, match="lr must be above 0"):
        BoundaryExpand(lr=0.0)
    with pytest.raises(EmptyDataError, match="BoundaryExpand"):
        STRONG.apply(world.model(), replace(request, forget=request.forget.subset([])), rng=seeded(0))


def test_naive_with_a_bias_momentum_and_decay() -> None:
    # two full-batch steps; the shadow row, its bias and the other rows move together, the row is then dropped
    x, y = torch.randn(6, 4, generator=seeded(1), dtype=torch.float64), torch.arange(6) % 3
    data = of_tensors(x, y, classes=3, batch_size=6)
    model = nn.Sequential(nn.Linear(4, 3, dtype=torch.float64))
    method = BoundaryExpand(lr=0.3, momentum=0.8, weight_decay=0.05, epochs=2)
    edited = method.apply(model, Request.of(data, data, [1, 2, 5]), rng=seeded(5))
    wide = widened(model[0], seeded(5))
    state = [p.detach().clone() for p in (wide.weight, wide.bias)]
    speed = [torch.zeros_like(p) for p in state]
    for _ in range(2):
        w, b = (p.requires_grad_() for p in state)
        loss = -sum(torch.log_softmax(w @ x[i] + b, 0)[3] for i in (1, 2, 5)) / 3
        speed = [
            0.8 * v + g + 0.05 * p.detach()
            for v, g, p in zip(speed, torch.autograd.grad(loss, state), state, strict=True)
        ]
        state = [p.detach() - 0.3 * v for p, v in zip(state, speed, strict=True)]
    torch.testing.assert_close(edited[0].weight.detach(), state[0][:3], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(edited[0].bias.detach(), state[1][:3], rtol=1e-10, atol=1e-12)


def test_refuses_a_task_whose_classes_it_cannot_widen() -> None:
    class Proxy:
        """All abilities, but no dataclass."""

        def __init__(self) -> None:
            self.task, self.classes = world.request().forget.task, 3
            for name in ("losses", "outputs", "labels", "relabel"):
                setattr(self, name, getattr(self.task, name))

    request = world.request()
    with pytest.raises(InputError, match="a dataclass with a field `classes`"):
        STRONG.apply(
            world.model(), replace(request, forget=replace(request.forget, task=Proxy())), rng=seeded(0)
        )
