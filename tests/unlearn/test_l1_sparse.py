from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from tests.contract import world
from unweave import Data, Mask, Request, seeded
from unweave.embedded.digits import of_tensors
from unweave.errors import EmptyDataError, InputError
from unweave.unlearn import FineTune, L1Sparse


def test_exact() -> None:
    # Input 0, so the loss has no gradient: only the penalty moves w = (0.5, -0.3). Two epochs of one step:
    # gamma_0 = 1, gamma_1 = 1/2; lr 0.1: (0.5 - 0.1 - 0.05, -0.3 + 0.1 + 0.05) = (0.35, -0.15)
    model = nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.5], [-0.3]]))
    blank = of_tensors(torch.zeros(1, 1), torch.tensor([0]), classes=2)
    method = L1Sparse(epochs=2, gamma=1.0, lr=0.1, momentum=0.0)
    edited = method.apply(model, Request(blank, blank, blank), rng=seeded(0))
    torch.testing.assert_close(edited.weight, torch.tensor([[0.35], [-0.15]]))


def test_rule_for_gamma() -> None:
    # mean |w| = 0.4; lr / (1 - 0.9) = 1 a step, 5 steps an epoch, shares 1 + 1/2 = 1.5: gamma = 0.4 / 7.5
    weight = nn.Parameter(torch.tensor([[0.5, -0.3, 0.0]]))
    assert L1Sparse(epochs=2, lr=0.1).scale([weight], 5) == pytest.approx(0.4 / 7.5)


def test_rule_moves_a_lone_weight_by_the_mean_size() -> None:
    # Without momentum and loss gradient the whole pull arrives: a weight of 1 beside one of 0.2 loses 0.6.
    model = nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0], [0.2]]))
    blank = of_tensors(torch.zeros(4, 1), torch.zeros(4), classes=2, batch_size=1)
    edited = L1Sparse(epochs=7, no_l1_epochs=2, lr=0.01, momentum=0.0).apply(
        model, Request(blank, blank, blank), rng=seeded(0)
    )
    assert edited.weight[0, 0].item() == pytest.approx(0.4, abs=1e-5)


@pytest.mark.parametrize(("epochs", "rest"), [(1, 0), (4, 0), (4, 3), (10, 2)])
def test_schedule_falls_linearly_to_nothing(epochs: int, rest: int) -> None:
    shares = L1Sparse(epochs=epochs, no_l1_epochs=rest).shares()
    assert shares == pytest.approx([max(0.0, 1 - t / (epochs - rest)) for t in range(epochs)])
    assert shares[0] == 1.0
    assert all(share == 0.0 for share in shares[epochs - rest :])


def test_naive() -> None:
    model, request = world.model(batch_norm=True).double(), world.request()
    request = Request(
        request.forget, Data(request.retain.examples, request.retain.task, 200), request.heldout
    )
    edited = L1Sparse(epochs=3, gamma=0.01, lr=0.02).apply(model, request, rng=seeded(0))
    (batch,) = request.retain.batches()
    slow = world.model(batch_norm=True).double().train()
    speed = [torch.zeros_like(p) for p in slow.parameters()]
    for share in (1, 2 / 3, 1 / 3):
        ce = -slow(batch[0].double()).log_softmax(1)[torch.arange(len(batch[1])), batch[1]].mean()
        for i, (p, g) in enumerate(
            zip(slow.parameters(), torch.autograd.grad(ce, list(slow.parameters())), strict=True)
        ):
            speed[i] = 0.9 * speed[i] + g + 0.01 * share * p.detach().sign()
            p.data = p.data - 0.02 * speed[i]
    for p, q in zip(edited.parameters(), slow.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-9)


def test_shrinks_where_fine_tuning_does_not() -> None:
    model, request = world.model(), world.request()

    def size(m: nn.Module) -> float:
        return sum(float(p.detach().abs().sum()) for p in m.parameters())

    control = FineTune(weight_decay=0.0).apply(model, request, rng=seeded(0))
    edited = L1Sparse().apply(model, request, rng=seeded(0))
    assert size(edited) < 0.7 * size(control)


def test_frozen_and_masked_weights_feel_no_penalty() -> None:
    model, request = world.model(), world.request()
    model[1].weight.requires_grad_(False)
    only = Mask({"3.weight": torch.zeros(3, 24, dtype=torch.bool)})
    edited = L1Sparse(gamma=0.1).apply(model, request, rng=seeded(0), only=only)
    assert torch.equal(edited[1].weight, model[1].weight)
    assert torch.equal(edited[3].weight, model[3].weight)
    assert not torch.equal(edited[3].bias, model[3].bias)


def test_refuses() -> None:
    model, request = world.model(), world.request()
    with pytest.raises(EmptyDataError, match="retain"):
        L1Sparse().apply(
            model, Request(request.forget, request.retain.subset([]), request.heldout), rng=seeded(0)
        )
    with pytest.raises(InputError, match="every parameter is frozen"):
        L1Sparse().apply(world.model().requires_grad_(False), request, rng=seeded(0))
    for bad, message in [
        (partial(L1Sparse, gamma=0.0), "gamma"),
        (partial(L1Sparse, gamma=-1.0), "gamma"),
        (partial(L1Sparse, epochs=3, no_l1_epochs=3), "no_l1_epochs"),
        (partial(L1Sparse, no_l1_epochs=-1), "no_l1_epochs"),
    ]:
        with pytest.raises(InputError, match=message):
            bad()
    with pytest.raises(TypeError):
        L1Sparse(weight_decay=5e-4)  # type: ignore[call-arg]


def test_penalty_and_loss_add_up_with_the_running_statistics_as_asked() -> None:
    model, request = world.model(batch_norm=True), world.request()
    kept, followed = (
        L1Sparse(epochs=2, norms=n).apply(model, request, rng=seeded(0)) for n in ("frozen", "train")
    )
    assert torch.equal(kept[2].running_mean, model[2].running_mean)
    assert (
        int(followed[2].num_batches_tracked) - int(model[2].num_batches_tracked) == 2 * request.retain.steps
    )


def test_default_gamma_is_the_rule_of_what_moves() -> None:
    # one weight frozen: the mean is over the others, 8 examples in batches of 2 are 4 steps
    model, request = world.model(sparse=True).double(), world.request()
    model[1].weight.requires_grad_(False)
    data = Data(request.retain.examples, request.retain.task, 2).subset(range(8))
    request = Request(request.forget, data, request.heldout)
    moving = [model[1].bias, model[3].weight, model[3].bias]
    living = sum(int((p != 0).sum()) for p in moving)
    mean = sum(float(p.detach().abs().sum()) for p in moving) / living
    gamma = mean / (0.02 / (1 - 0.5) * 4 * (1 + 2 / 3 + 1 / 3))
    a = L1Sparse(epochs=3, lr=0.02, momentum=0.5).apply(model, request, rng=seeded(0))
    b = L1Sparse(epochs=3, lr=0.02, momentum=0.5, gamma=gamma).apply(model, request, rng=seeded(0))
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-14)
