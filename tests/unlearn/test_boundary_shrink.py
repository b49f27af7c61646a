from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.contract import world
from unweave import Data, seeded
from unweave.embedded.digits import of_tensors
from unweave.errors import EmptyDataError, InputError
from unweave.tasks import Classify, predict, read_labels
from unweave.unlearn import BoundaryShrink
from unweave.unlearn import boundary_shrink as module
from unweave.unlearn.boundary_shrink import input_range, nearest_wrong

STRONG = BoundaryShrink(lr=0.03, epochs=40)


def three_slopes() -> nn.Linear:
    # logits of x = (a, b): (a, b, 0.9)
    model = nn.Linear(2, 3)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]))
        model.bias.copy_(torch.tensor([0.0, 0.0, 0.9]))
    return model


def test_exact() -> None:
    # x = (1, 0.8), class 0, logits (1, .8, .9). Class 0's loss rises with less a and more b: sign (-1, +1).
    #   step 0.15: x' = (.85, .95), argmax 1.    step 0.01: (.99, .81, .9): still class 0, the runner-up is 2.
    #   step 0.15 with nothing above 0.85: x' = (.85, .85), logits (.85, .85, .9): class 2.
    model, task = three_slopes(), Classify(3)
    batch = torch.tensor([[1.0, 0.8]]), torch.tensor([0])

    def wrong(step: float, high: float) -> float:
        return nearest_wrong(model, task, batch, step=step, low=0.0, high=high).item()

    assert wrong(0.15, 1.0) == 1
    assert wrong(0.01, 1.0) == 2
    assert wrong(0.15, 0.85) == 2


def test_naive() -> None:
    model = world.model(batch_norm=True).double()
    forget = world.request().forget
    low, high = input_range(forget)
    (batch,) = Data(forget.examples, forget.task, len(forget)).batches()
    fast = nearest_wrong(model, forget.task, batch, step=0.7, low=low, high=high)
    model.eval()
    moved_off = 0
    for i, (x, y) in enumerate(zip(*batch, strict=True)):
        x = x.double().requires_grad_()
        loss = -torch.log_softmax(model(x[None])[0], 0)[y]
        (g,) = torch.autograd.grad(loss, x)
        there = torch.stack(
            [
                min(max(v + 0.7 * s, torch.tensor(low)), torch.tensor(high))
                for v, s in zip(x, g.sign(), strict=True)
            ]
        )
        ranked = model(there[None])[0].argsort(descending=True).tolist()
        moved_off += ranked[0] != int(y)
        assert fast[i].item() == next(c for c in ranked if c != int(y))
    assert 0 < moved_off < len(forget)  # both branches were taken


def test_gives_examples_to_their_neighbours_against_control() -> None:
    model, request = world.model(), world.request()
    (batch,) = Data(request.forget.examples, request.forget.task, 99).batches()
    neighbour = nearest_wrong(model, request.forget.task, batch, step=0.1, low=-9.0, high=9.0)
    other = 3 - neighbour - batch[1]  # the third class: neither true nor nearest
    edited = STRONG.apply(model, request, rng=seeded(0))

    def share(model: nn.Module, labels: torch.Tensor) -> float:
        return float((predict(model, request.forget).argmax(1) == labels).double().mean())

    assert share(model, batch[1]) > 0.9
    assert share(edited, neighbour) > 0.7
    assert share(edited, other) < 0.2


def test_reads_the_forget_set_alone() -> None:
    request = world.request()
    other = of_tensors(torch.zeros(4, 8), torch.zeros(4), classes=3)
    a = STRONG.apply(world.model(), request, rng=seeded(0))
    b = STRONG.apply(world.model(), replace(request, retain=other, heldout=other), rng=seeded(0))
    assert torch.equal(a[1].weight, b[1].weight)


def test_leaves_norm_statistics_and_the_range_is_the_data_s() -> None:
    model = world.model(batch_norm=True)
    edited = STRONG.apply(model, world.request(), rng=seeded(0))
    assert torch.equal(edited[2].running_mean, model[2].running_mean)
    x = torch.tensor([[0.25, 3.0], [-1.5, 1.0], [0.0, 0.0]])
    assert input_range(of_tensors(x, torch.tensor([0, 1, 2]), batch_size=2)) == (-1.5, 3.0)


def test_refuses() -> None:
    for settings, message in [
        ({"step": 0.0}, "step must be above 0; got 0.0"),
        ({"low": 1.0, "high": 0.0}, "low must lie below high"),
        ({"lr": -1.0}, "lr must be above 0"),
    ]:
        with pytest.raises(InputError, match=message):
            BoundaryShrink(**settings)
    request = world.request()
    with pytest.raises(EmptyDataError, match="BoundaryShrink"):
        STRONG.apply(world.model(), replace(request, forget=request.forget.subset([])), rng=seeded(0))
    whole = of_tensors(torch.ones(2, 8), torch.tensor([0, 1]), classes=3)
    counts = replace(
        whole, examples=torch.utils.data.TensorDataset(torch.ones(2, 8).long(), torch.tensor([0, 1]))
    )
    with pytest.raises(InputError, match="must be floating point; got torch.int64"):
        STRONG.apply(world.model(), replace(request, forget=counts), rng=seeded(0))

    class Plain:
        losses, outputs = Classify.losses, Classify.outputs

    with pytest.raises(
        InputError,
        match="BoundaryShrink needs a task that is Perturbing .*Plain has no classes, inputs, labels",
    ):
        STRONG.apply(
            world.model(), replace(request, forget=replace(request.forget, task=Plain())), rng=seeded(0)
        )  # type: ignore[arg-type]
    assert read_labels(request.forget).numel() == 12


def test_naive_step_with_momentum_and_decay() -> None:
    # two full-batch steps of descent towards the neighbours' labels, which are those of the original throughout
    model, task = three_slopes().double(), Classify(3)
    with torch.no_grad():
        model.weight.add_(0.01)  # an exact zero would be taken for pruned
    x = torch.tensor([[1.0, 0.8], [0.2, 0.9], [0.5, 0.4]], dtype=torch.float64)
    y = torch.tensor([0, 1, 2])
    data = of_tensors(x, y, classes=3, batch_size=3)
    across = nearest_wrong(model, task, (x, y), step=0.15, low=0.2, high=1.0)
    method = BoundaryShrink(lr=0.4, momentum=0.8, weight_decay=0.05, epochs=2, step=0.15)
    edited = method.apply(model, replace(world.request(), forget=data), rng=seeded(0))
    state = [p.detach().clone() for p in model.parameters()]
    speed = [torch.zeros_like(p) for p in state]
    for _ in range(2):
        w, b = (p.requires_grad_() for p in state)
        loss = -sum(torch.log_softmax(w @ x[i] + b, 0)[across[i]] for i in range(3)) / 3
        speed = [
            0.8 * v + g + 0.05 * p.detach()
            for v, g, p in zip(speed, torch.autograd.grad(loss, state), state, strict=True)
        ]
        state = [p.detach() - 0.4 * v for p, v in zip(state, speed, strict=True)]
    for p, q in zip(edited.parameters(), state, strict=True):
        torch.testing.assert_close(p.detach(), q, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, (-1.5, 3.0)),
        ({"low": -9.0}, (-9.0, 3.0)),
        ({"high": 0.5}, (-1.5, 0.5)),
        ({"low": 0.0, "high": 1.0}, (0.0, 1.0)),
    ],
)
def test_the_range_given_comes_before_the_datas(
    given: dict, expected: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = set()

    def spy(
        model: nn.Module, task: Classify, batch: tuple, *, step: float, low: float, high: float
    ) -> torch.Tensor:
        seen.add((step, low, high))
        return nearest_wrong(model, task, batch, step=step, low=low, high=high)

    monkeypatch.setattr(module, "nearest_wrong", spy)
    data = of_tensors(torch.tensor([[0.25, 3.0], [-1.5, 1.0]]), torch.tensor([0, 1]), classes=3)
    method = BoundaryShrink(epochs=1, step=0.25, **given)
    method.apply(three_slopes(), replace(world.request(), forget=data), rng=seeded(0))
    assert seen == {(0.25, *expected)}
