from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from tests.contract import world
from unweave import Data, Mask, Request, seeded
from unweave.embedded.nets import mlp
from unweave.errors import EmptyDataError, InputError
from unweave.unlearn import FineTune


class SquaredError:
    """loss = (w x - y)^2, to be followed by hand."""

    def losses(self, model: nn.Module, batch: Any) -> torch.Tensor:
        return (model(batch[0]) - batch[1]).square().squeeze(1)

    def outputs(self, model: nn.Module, batch: Any) -> torch.Tensor:
        return model(batch[0])


def line(pairs: list[tuple[float, float]]) -> Data[SquaredError]:
    return Data([(torch.tensor([x]), torch.tensor([y])) for x, y in pairs], SquaredError())


def test_exact() -> None:
    # w = 1, one retained point (3, 0): d/dw (3w)^2 = 18, so w = 1 - 0.18 = 0.82, then 0.82 - 0.1476 = 0.6724
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    request = Request(line([(5.0, 5.0)]), line([(3.0, 0.0)]), line([(1.0, 1.0)]))
    method = FineTune(epochs=2, lr=0.01, momentum=0.0, weight_decay=0.0)
    edited = method.apply(model, request, rng=seeded(0))
    assert edited.weight.item() == pytest.approx(0.6724, abs=1e-6)


def test_naive_momentum_and_decay() -> None:
    model, request = world.model().double(), world.request()
    request = Request(
        request.forget, Data(request.retain.examples, request.retain.task, batch_size=200), request.heldout
    )
    edited = FineTune(epochs=3, lr=0.02, momentum=0.9, weight_decay=0.01).apply(model, request, rng=seeded(0))
    (batch,) = request.retain.batches()
    weights = [p.detach().clone() for p in model.parameters()]
    speed = [torch.zeros_like(w) for w in weights]
    slow = world.model().double()
    for _ in range(3):
        for p, w in zip(slow.parameters(), weights, strict=True):
            p.data = w.clone()
        logits = slow(batch[0].double())
        loss = -logits.log_softmax(1)[torch.arange(len(batch[1])), batch[1]].mean()
        for i, g in enumerate(torch.autograd.grad(loss, list(slow.parameters()))):
            speed[i] = 0.9 * speed[i] + g + 0.01 * weights[i]
            weights[i] = weights[i] - 0.02 * speed[i]
    for p, w in zip(edited.parameters(), weights, strict=True):
        torch.testing.assert_close(p, w, rtol=1e-6, atol=1e-9)


def test_forget_set_has_no_influence() -> None:
    model, request = world.model(), world.request()
    other = Request(request.heldout, request.retain, request.forget)
    a, b = (FineTune().apply(model, r, rng=seeded(1)) for r in (request, other))
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def test_cf_k_moves_the_tail_alone() -> None:
    model, request = world.model(batch_norm=True), world.request()
    edited = FineTune.cf_k(1, epochs=2, lr=0.05).apply(model, request, rng=seeded(0))
    same = [torch.equal(p, q) for p, q in zip(model.parameters(), edited.parameters(), strict=True)]
    assert same == [True, True, True, True, False, False]  # linear, norm | linear
    assert all(p.requires_grad and p.grad is None for p in edited.parameters())
    assert not torch.equal(model[2].running_mean, edited[2].running_mean)
    still = FineTune(last_layers=1, norms="frozen", epochs=2).apply(model, request, rng=seeded(0))
    assert torch.equal(model[2].running_mean, still[2].running_mean)


def test_cf_of_all_layers_is_plain_fine_tuning() -> None:
    model, request = world.model(), world.request()
    a, b = (FineTune(last_layers=k).apply(model, request, rng=seeded(2)) for k in (2, None))
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def test_eu_k_starts_afresh() -> None:
    # after tiny steps the last layer is still a fresh draw, far from where it was; the first is untouched
    model, request = world.model(), world.request()
    edited = FineTune.eu_k(1, epochs=1, lr=1e-9).apply(model, request, rng=seeded(0))
    control = FineTune.cf_k(1, epochs=1, lr=1e-9).apply(model, request, rng=seeded(0))
    assert torch.equal(edited[1].weight, model[1].weight)
    assert float((control[-1].weight - model[-1].weight).detach().norm()) < 1e-6
    assert float((edited[-1].weight - model[-1].weight).detach().norm()) > 0.5
    assert float(edited[-1].weight.detach().abs().max()) <= 24**-0.5 + 1e-6  # of a fresh Linear(24, 3)


def test_eu_k_keeps_pruned_weights_and_frozen_biases() -> None:
    model, request = world.model(sparse=True), world.request()
    model[-1].bias.requires_grad_(False)
    edited = FineTune.eu_k(1).apply(model, request, rng=seeded(0))
    dead = model[-1].weight == 0
    assert dead.any()
    assert not edited[-1].weight[dead].any()
    assert torch.equal(edited[-1].bias, model[-1].bias)


def test_only_confines() -> None:
    model, request = world.model(), world.request()
    moves = {n: torch.rand(p.shape, generator=seeded(3)) < 0.3 for n, p in model.named_parameters()}
    edited = FineTune(lr=0.05).apply(model, request, rng=seeded(0), only=Mask(moves))
    for (name, p), q in zip(model.named_parameters(), edited.parameters(), strict=True):
        assert torch.equal(p[~moves[name]], q[~moves[name]])
        assert not torch.equal(p[moves[name]], q[moves[name]])


def test_refuses() -> None:
    model, request = world.model(), world.request()
    with pytest.raises(EmptyDataError, match="retain"):
        FineTune().apply(
            model, Request(request.forget, request.retain.subset([]), request.heldout), rng=seeded(0)
        )
    with pytest.raises(InputError, match="last_layers is 3, but the model has 2"):
        FineTune.cf_k(3).apply(model, request, rng=seeded(0))
    with pytest.raises(InputError, match="every parameter is frozen"):
        FineTune().apply(world.model().requires_grad_(False), request, rng=seeded(0))
    with pytest.raises(InputError, match="cannot be confined"):
        FineTune.eu_k(1).apply(model, request, rng=seeded(0), only=Mask({}))

    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1, 3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.weight

    with pytest.raises(
        InputError, match=r"FineTune.reset cannot initialise 1 \(Scale\) afresh.*Use fewer last_layers"
    ):
        FineTune.eu_k(1).apply(nn.Sequential(mlp(8, 24, 3), Scale()), request, rng=seeded(0))
    for bad, message in [
        (partial(FineTune, epochs=0), "epochs"),
        (partial(FineTune, lr=0.0), "lr"),
        (partial(FineTune, momentum=1.0), "momentum"),
        (partial(FineTune, weight_decay=-1.0), "weight_decay"),
        (partial(FineTune, last_layers=0), "last_layers"),
        (partial(FineTune, reset=True), "needs last_layers"),
    ]:
        with pytest.raises(InputError, match=message):
            bad()
