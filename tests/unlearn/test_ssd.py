from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.contract import world
from unweave import Data, Request, seeded
from unweave.embedded.digits import of_tensors
from unweave.errors import EmptyDataError, InputError, NonFiniteError
from unweave.tasks import predict, read_labels
from unweave.unlearn import SSD
from unweave.unlearn.ssd import _beside_the_rest, dampened, importance


def one_class() -> Request:
    """Forget every training example of class 2."""
    train, heldout = world.points()
    return Request.of(train, heldout, (read_labels(train) == 2).nonzero().flatten())


def accuracy(model: nn.Module, data: Data) -> float:
    return float((predict(model, data).argmax(1) == read_labels(data)).double().mean())


def test_exact() -> None:
    # alpha 2, lambda 0.5. I_F / I_D: 4 -> 0.5 / 4 = 1/8;  2 -> not above alpha: 1;  2.5 -> 0.2;  0 / 0 -> 1.
    on_forget, on_all = torch.tensor([4.0, 2.0, 2.5, 0.0]), torch.tensor([1.0, 1.0, 1.0, 0.0])
    torch.testing.assert_close(dampened(on_forget, on_all, 2.0, 0.5), torch.tensor([0.125, 1.0, 0.2, 1.0]))
    # alpha 1, lambda 3: 3 / 2 would grow the weight and is cut to 1
    assert dampened(torch.tensor([2.0]), torch.tensor([1.0]), 1.0, 3.0).item() == 1.0


def test_exact_importance() -> None:
    # Logits w x with w = 0 and two classes: gradient of class y's loss is (p - onehot) x, p = 1/2.
    # x = 2 and x = 4, both class 0: row 0 has gradients -1 and -2. One by one: (1 + 4) / 2. Together: 1.5^2.
    model = nn.Linear(1, 2, bias=False)
    nn.init.zeros_(model.weight)
    data = of_tensors(torch.tensor([[2.0], [4.0]]), torch.tensor([0, 0]), classes=2, batch_size=1)
    assert importance(model, data)["weight"].flatten().tolist() == [2.5, 2.5]
    assert importance(model, replace(data, batch_size=2))["weight"].flatten().tolist() == [2.25, 2.25]


@pytest.mark.parametrize("batch_size", [None, 1, 7])
def test_naive(batch_size: int | None) -> None:
    model, request = world.model(batch_norm=True).double(), one_class()
    edited = SSD(alpha=1.3, dampening=0.6, batch_size=batch_size).apply(model, request, rng=seeded(0))
    model.eval()
    sums, counts = [], []
    for part in (request.forget, request.retain):
        total, count = [torch.zeros_like(p) for p in model.parameters()], 0
        for x, y in replace(part, batch_size=batch_size or part.batch_size).batches():
            loss = -torch.log_softmax(model(x.double()), 1)[torch.arange(len(y)), y].mean()
            for t, g in zip(total, torch.autograd.grad(loss, list(model.parameters())), strict=True):
                t += g**2
            count += 1
        sums.append(total)
        counts.append(count)
    touched = 0
    for p, q, f, r in zip(model.parameters(), edited.parameters(), *sums, strict=True):
        i_f, i_d = f / counts[0], (f + r) / sum(counts)
        for at in range(p.numel()):
            a, b, w = (float(t.detach().flatten()[at]) for t in (i_f, i_d, p))
            want = min(0.6 * b / a, 1) * w if a > 1.3 * b else w
            assert float(q.detach().flatten()[at]) == pytest.approx(want, rel=1e-9)
            touched += want != w
    assert 0 < touched < sum(p.numel() for p in model.parameters())


def test_unselected_weights_keep_their_bits() -> None:
    model, request = world.model(), one_class()
    on_forget, on_retain = importance(model, request.forget), importance(model, request.retain)
    edited = SSD(alpha=2.0, batch_size=None).apply(model, request, rng=seeded(0))
    kept = 0
    for name, weight in model.named_parameters():
        stays = on_forget[name] <= 2.0 * (2 * on_forget[name] + 4 * on_retain[name]) / 6  # 2 and 4 batches
        kept += int(stays.sum())
        assert torch.equal(edited.get_parameter(name)[stays], weight[stays])
    assert kept > 50


def test_forgets_the_class_against_control() -> None:
    # control: as many weights, dampened as much, but those of another class
    model, request = world.model(), one_class()
    train, heldout = world.points()
    control = Request.of(train, heldout, (read_labels(train) == 0).nonzero().flatten())
    method = SSD(alpha=1.5, batch_size=1)
    edited, other = (method.apply(model, r, rng=seeded(0)) for r in (request, control))
    assert accuracy(model, request.forget) > 0.9
    assert accuracy(edited, request.forget) < accuracy(other, request.forget) - 0.4
    assert accuracy(edited, request.retain) > 0.8


def test_nothing_to_dampen_is_an_error_that_names_the_bound() -> None:
    # 12 of 90 examples in batches of one: I_F <= 90 / 12 I_D = 7.5 I_D
    request = world.request()
    with pytest.raises(InputError, match=r"dampened no weight.*must be below 7.5"):
        SSD(alpha=7.5, batch_size=1).apply(world.model(), request, rng=seeded(0))
    SSD(alpha=1.1, batch_size=1).apply(world.model(), request, rng=seeded(0))


def test_refuses() -> None:
    for settings, message in [
        ({"alpha": 0.0}, "alpha must be above 0, or None; got 0.0"),
        ({"dampening": -1.0}, "dampening"),
        ({"batch_size": 0}, "batch_size"),
    ]:
        with pytest.raises(InputError, match=message):
            SSD(**settings)  # type: ignore[arg-type]
    request, model = world.request(), world.model()
    with pytest.raises(EmptyDataError, match="SSD"):
        SSD().apply(model, replace(request, forget=request.forget.subset([])), rng=seeded(0))
    with pytest.raises(InputError, match="every parameter is frozen"):
        SSD().apply(world.model().requires_grad_(False), request, rng=seeded(0))
    with torch.no_grad():
        model[1].weight[0, 0] = torch.inf
    with pytest.raises(NonFiniteError, match="the loss of the model .* is nan"):
        SSD().apply(model, request, rng=seeded(0))


def test_an_infinite_gradient_of_a_finite_loss_is_refused() -> None:
    class Root(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x[:, :3] + self.weight.abs().sqrt()

    with pytest.raises(NonFiniteError, match="a gradient of weight is not finite"):
        SSD().apply(Root(), world.request(), rng=seeded(0))


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
def test_without_alpha_a_weight_is_selected_by_ten_times_the_rest(share: float) -> None:
    on_forget = 10 ** torch.linspace(-1, 3, 400, dtype=torch.float64)
    on_retain = torch.ones_like(on_forget)
    on_all = share * on_forget + (1 - share) * on_retain
    selected = on_forget > _beside_the_rest(share) * on_all
    assert torch.equal(selected, on_forget > 10 * on_retain)


def test_at_its_defaults_it_runs_example_by_example_on_a_class_of_three() -> None:
    model, request = world.model(), one_class()
    share = len(request.forget) / (len(request.forget) + len(request.retain))
    by_hand = SSD(alpha=10 / (1 + 9 * share), batch_size=1).apply(model, request, rng=seeded(0))
    edited = SSD().apply(model, request, rng=seeded(0))
    assert all(torch.equal(a, b) for a, b in zip(by_hand.parameters(), edited.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(model.parameters(), edited.parameters(), strict=True))
