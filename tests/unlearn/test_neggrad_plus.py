from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from tests.contract import world
from unweave import Data, Request, seeded
from unweave.embedded.digits import of_tensors
from unweave.errors import EmptyDataError, InputError, NonFiniteError
from unweave.tasks import accuracy, predict, read_labels
from unweave.unlearn import FineTune, NegGradPlus


def loss(model: nn.Module, data: Data) -> float:
    return float(predict(model, data, data.task.losses).mean())


def test_exact() -> None:
    # Two logits w x, w = 0, so p = (1/2, 1/2). Retained: x = 1, class 0, gradient (-1/2, 1/2).
    # Forgotten: x = 2, class 0, gradient (-1, 1). a = 0.9: 0.9 (-.5, .5) - 0.1 (-1, 1) = (-.35, .35); lr 0.1.
    model = nn.Linear(1, 2, bias=False)
    nn.init.zeros_(model.weight)
    forget = of_tensors(torch.full((1, 1), 2.0), torch.tensor([0]), classes=2)
    retain = of_tensors(torch.ones(1, 1), torch.tensor([0]), classes=2)
    method = NegGradPlus(epochs=1, lr=0.1, alpha=0.9, weight_decay=0.0)
    edited = method.apply(model, Request(forget, retain, retain), rng=seeded(0))
    torch.testing.assert_close(edited.weight, torch.tensor([[0.035], [-0.035]]))


@pytest.mark.parametrize("alpha", [0.5, 0.95])
def test_naive(alpha: float) -> None:
    model, request = world.model().double(), world.request()
    request = Request(
        *(Data(d.examples, d.task, 200) for d in (request.forget, request.retain, request.heldout))
    )
    edited = NegGradPlus(epochs=3, lr=0.02, alpha=alpha, weight_decay=0.0).apply(
        model, request, rng=seeded(0)
    )
    weights = [p.detach().clone() for p in model.parameters()]
    speed = [torch.zeros_like(w) for w in weights]
    slow = world.model().double()
    for _ in range(3):
        for p, w in zip(slow.parameters(), weights, strict=True):
            p.data = w.clone()
        means = []
        for data in (request.retain, request.forget):
            (batch,) = data.batches()
            means.append(
                -slow(batch[0].double()).log_softmax(1)[torch.arange(len(batch[1])), batch[1]].mean()
            )
        total = alpha * means[0] - (1 - alpha) * means[1]
        for i, g in enumerate(torch.autograd.grad(total, list(slow.parameters()))):
            speed[i] = 0.9 * speed[i] + g
            weights[i] = weights[i] - 0.02 * speed[i]
    for p, w in zip(edited.parameters(), weights, strict=True):
        torch.testing.assert_close(p, w, rtol=1e-6, atol=1e-9)


def test_alpha_one_is_fine_tuning() -> None:
    # the same batches of the retain set in the same order, and a forget term of weight zero
    model, request = world.model(), world.request()
    a = NegGradPlus(alpha=1.0, lr=0.02).apply(model, request, rng=seeded(5))
    b = FineTune(epochs=5, lr=0.02).apply(model, request, rng=seeded(5))
    near = (
        (loss(a, request.retain), loss(a, request.forget)),
        (loss(b, request.retain), loss(b, request.forget)),
    )
    assert near[0] == pytest.approx(near[1], rel=0.1)


def test_pushes_forget_and_holds_retain() -> None:
    model, request = world.model(), world.request()
    edited = NegGradPlus(lr=0.02, alpha=0.9).apply(model, request, rng=seeded(0))
    control = NegGradPlus(lr=0.02, alpha=1.0).apply(model, request, rng=seeded(0))
    assert loss(edited, request.forget) > 2 * loss(control, request.forget)
    assert loss(edited, request.retain) < loss(control, request.retain) + 0.3


def test_cap_bounds_the_push() -> None:
    model, request = world.model(), world.request()
    settings = {"lr": 0.1, "alpha": 0.5, "epochs": 20}
    capped = NegGradPlus(**settings, cap=1.1).apply(model, request, rng=seeded(0))
    try:
        free = loss(NegGradPlus(**settings, cap=None).apply(model, request, rng=seeded(0)), request.forget)
    except NonFiniteError:
        free = float("inf")
    assert free > 5 * loss(capped, request.forget)


def test_refuses() -> None:
    model, request = world.model(), world.request()
    with pytest.raises(EmptyDataError, match="retain"):
        NegGradPlus().apply(
            model, Request(request.forget, request.retain.subset([]), request.heldout), rng=seeded(0)
        )
    for bad, message in [
        (partial(NegGradPlus, alpha=1.5), "alpha"),
        (partial(NegGradPlus, alpha=-0.5), "alpha"),
        (partial(NegGradPlus, cap=0.0), "cap"),
        (partial(NegGradPlus, lr=0.0), "lr"),
    ]:
        with pytest.raises(InputError, match=message):
            bad()


def test_capped_examples_give_no_push() -> None:
    # w = 0 and two logits: losses ln 2 whatever x. Cap 0.7 > ln 2 pushes, cap 0.6 < ln 2 does not.
    # retained: x = 1, class 0, gradient (-1/2, 1/2); forgotten: x = 2: (-1, 1); a = 0.5, lr 0.1
    forget = of_tensors(torch.full((1, 1), 2.0), torch.tensor([0]), classes=2)
    retain = of_tensors(torch.ones(1, 1), torch.tensor([0]), classes=2)
    for cap, moved in ((0.6, 0.025), (0.7, -0.025)):
        model = nn.Linear(1, 2, bias=False)
        nn.init.zeros_(model.weight)
        method = NegGradPlus(epochs=1, lr=0.1, alpha=0.5, weight_decay=0.0, cap=cap)
        edited = method.apply(model, Request(forget, retain, retain), rng=seeded(0))
        torch.testing.assert_close(edited.weight, torch.tensor([[moved], [-moved]]))


def test_running_statistics_as_asked() -> None:
    model, request = world.model(batch_norm=True), world.request()
    kept, followed = (
        NegGradPlus(epochs=1, norms=n).apply(model, request, rng=seeded(0)) for n in ("frozen", "train")
    )
    assert torch.equal(kept[2].running_mean, model[2].running_mean)
    assert (
        int(followed[2].num_batches_tracked) - int(model[2].num_batches_tracked) == 2 * request.retain.steps
    )


def test_at_its_default_cap_a_class_goes_and_the_rest_stays() -> None:
    train, heldout = world.points()
    request = Request.of(train, heldout, (read_labels(train) == 2).nonzero().flatten())
    settings = {"lr": 0.1, "alpha": 0.5, "epochs": 20}
    kept = NegGradPlus(**settings).apply(world.model(), request, rng=seeded(0))
    assert accuracy(kept, request.forget) == 0
    assert accuracy(kept, request.retain) > 95
    assert loss(kept, request.forget) > 7  # 8 is the cap
    try:
        free = loss(
            NegGradPlus(**settings, cap=None).apply(world.model(), request, rng=seeded(0)), request.retain
        )
    except NonFiniteError:
        free = float("inf")
    assert free > 5 * loss(kept, request.retain)
