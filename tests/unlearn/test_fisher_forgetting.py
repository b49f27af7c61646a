from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import Module

from tests.contract import world
from unweave import Mask, seeded
from unweave.derivatives import Point
from unweave.errors import InputError
from unweave.tasks import predict
from unweave.unlearn import FisherForgetting


def flat(model: Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_std_by_hand() -> None:
    d = {"b": torch.tensor([0.0, 1e-4, 1.0]), "w": torch.tensor([[1.0, 4.0], [0.0, 1e-4]])}
    # alpha 1e-4: sqrt(1e-4 / D) = 1 at D = 1e-4, 0.01 at 1, 0.005 at 4; at D = 0 the cap
    std = FisherForgetting(alpha=1e-4, eps=1e-12, largest_std=2, power=0.5).std(d)
    torch.testing.assert_close(std["b"], torch.tensor([2.0, 1.0, 0.01]))
    torch.testing.assert_close(std["w"], torch.tensor([[0.01, 0.005], [2.0, 1.0]]))
    pooled = FisherForgetting(alpha=1e-4, eps=1e-12, largest_std=2, pool=True, power=0.5).std(d)
    torch.testing.assert_close(pooled["b"], std["b"])
    # rows' mean variances: (1e-4 + 0.25e-4) / 2 and (4 + 1) / 2
    torch.testing.assert_close(pooled["w"], torch.tensor([[6.25e-5, 6.25e-5], [2.5, 2.5]]).sqrt())
    quarter = FisherForgetting(alpha=1e-4, eps=1e-12, largest_std=2).std(d)
    torch.testing.assert_close(quarter["b"], torch.tensor([2.0, 1.0, 0.1]))


def test_dead_positions_take_no_part_in_pooled_variances() -> None:
    method = FisherForgetting(alpha=1.0, eps=1e-12, largest_std=9, pool=True, power=0.5)
    mask = Mask({"w": torch.tensor([[True, False]])})
    assert float(method.std({"w": torch.tensor([[4.0, 0.0]])}, mask)["w"][0, 0]) == pytest.approx(0.5)
    assert float(method.std({"w": torch.tensor([[4.0, 0.0]])})["w"][0, 0]) > 1


def test_adds_exactly_that_noise() -> None:
    model, request = world.model(dtype=torch.float64), world.request()
    method = FisherForgetting(alpha=1e-6, largest_std=0.1)
    edited = method.apply(model, request, rng=seeded(5))
    diagonal = torch.zeros_like(flat(model))
    model.eval()
    for batch in replace(request.retain, batch_size=1).batches():
        p = request.retain.task.outputs(model, batch).softmax(-1)[0].detach()
        for y in range(3):
            model.zero_grad()
            request.retain.task.outputs(model, batch).log_softmax(-1)[0, y].backward()
            diagonal += (
                p[y] * torch.cat([w.grad.flatten() for w in model.parameters()]) ** 2 / len(request.retain)
            )
    std = (1e-6 / (diagonal + 1e-8)).pow(0.25).clamp(max=0.1)
    noise = torch.randn(len(std), generator=seeded(5)).double()
    torch.testing.assert_close(flat(edited) - flat(model), std * noise, rtol=1e-8, atol=1e-12)
    assert 0.1 < float((std == 0.1).double().mean()) < 0.9  # both sides of the cap are met


def test_a_low_cap_makes_it_isotropic() -> None:
    model, request = world.model(dtype=torch.float64), world.request()
    edited = FisherForgetting(alpha=1e9, largest_std=0.02).apply(model, request, rng=seeded(5))
    noise = torch.randn(flat(model).numel(), generator=seeded(5)).double()
    torch.testing.assert_close(flat(edited) - flat(model), 0.02 * noise, rtol=1e-6, atol=1e-9)


def test_spares_the_retain_set_more_than_isotropic_noise_of_equal_norm() -> None:
    model, request = world.model(dtype=torch.float64), world.request()
    point = Point.of(model, request.retain.task, "Test")

    def harm(edited: Module) -> float:
        losses = [predict(m, request.retain, request.retain.task.losses).mean() for m in (edited, model)]
        return float(losses[0] - losses[1])

    shaped, plain = [], []
    for seed in range(10):
        edited = FisherForgetting().apply(model, request, rng=seeded(seed))
        shaped.append(harm(edited))
        noise = torch.randn(point.space.size, generator=seeded(100 + seed)).double()
        noise *= (flat(edited) - flat(model)).norm() / noise.norm()
        plain.append(harm(point.write(model, noise, "Test")))
    assert sum(plain) > 0.02
    assert sum(shaped) < 0.5 * sum(plain)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"alpha": 0.0}, "FisherForgetting.alpha must be above 0; got 0.0"),
        ({"largest_std": -1.0}, "largest_std must be above 0"),
        ({"eps": 0.0}, "eps must be above 0"),
        ({"power": 0.0}, "power must be above 0 and at most 1; got 0.0. Use 0.5"),
        ({"power": 1.5}, "power must be above 0 and at most 1; got 1.5"),
    ],
)
def test_refuses(fields: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        FisherForgetting(**fields)


def test_eps_is_added_to_the_diagonal() -> None:
    # (1 / (1 + 3))^(1/2), and under the cap
    std = FisherForgetting(alpha=1.0, eps=3.0, largest_std=9, power=0.5).std({"b": torch.tensor([1.0, 13.0])})
    torch.testing.assert_close(std["b"], torch.tensor([0.5, 0.25]))


def test_pooling_of_a_pruned_model_leaves_its_dead_out() -> None:
    model, request = world.model(sparse=True, dtype=torch.float64), world.request()
    point = Point.of(model, request.retain.task, "Test")
    diagonal = point.space.tensors(point.fisher_diagonal(request.retain))["1.weight"]
    edited = FisherForgetting(alpha=1e-6, pool=True, power=0.5, largest_std=0.1).apply(
        model, request, rng=seeded(5)
    )
    alive = model[1].weight.detach() != 0
    variance = (1e-6 / (diagonal + 1e-8)).clamp(max=0.01)
    pooled = [row[live].mean() if live.any() else 0.0 for row, live in zip(variance, alive, strict=True)]
    noise = torch.randn(point.space.size, generator=seeded(5)).double()[: int(alive.sum())]
    expected = torch.tensor(pooled).double()[:, None].expand(alive.shape)[alive].sqrt() * noise
    got = (edited[1].weight - model[1].weight).detach()[alive]
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-9)
