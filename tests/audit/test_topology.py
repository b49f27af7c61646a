from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from unweave import Data, Mask, seeded
from unweave.audit.classifier.topology import bound_proxy, chance, filters, topology
from unweave.embedded.nets import mlp
from unweave.errors import EmptyDataError, InputError
from unweave.tasks import Classify


def mask(*bits: int) -> Mask:
    return Mask({"weight": torch.tensor(bits, dtype=torch.bool).view(2, -1)})


def test_exact() -> None:
    # original keeps {0,1}, edited {0,2}, oracles {0,2} and {2,3}:
    # edited with oracles 2/2 and 1/3, mean 2/3; floor 1/3 and 0/4, mean 1/6; ceiling 1/3
    found = topology(
        mask(1, 1, 0, 0), mask(1, 0, 1, 0), [mask(1, 0, 1, 0), mask(0, 0, 1, 1)], same_initial=True
    )
    assert found.iou == pytest.approx(2 / 3)
    assert found.floor == pytest.approx(1 / 6)
    assert found.ceiling == pytest.approx(1 / 3)
    assert found.score == pytest.approx((2 / 3 - 1 / 6) / (1 / 3 - 1 / 6))
    assert found.chance == pytest.approx(0.5 / 1.5)
    assert (found.flipped, found.flipped_share, found.survivors) == (2, 0.5, 2)
    # filters: edited {0, 1}; oracles {0, 1} and {1}
    assert found.filters == pytest.approx((1 + 0.5) / 2)
    layer = found.layers["weight"]
    assert layer["edited"] == layer["original"] == 0.5
    assert layer["iou_original"] == pytest.approx(1 / 3)
    assert layer["iou_oracle"] == pytest.approx(2 / 3)
    by_name = {m.name: m for m in found.measurements}
    assert by_name["mask overlap"].value == found.iou
    assert by_name["mask score"].value == found.score
    assert by_name["changed survivors"].value == 50


def test_score_needs_room_between_floor_and_ceiling() -> None:
    same = mask(1, 1, 0, 0)
    found = topology(same, same, [same, same], same_initial=True)
    assert found.iou == found.floor == found.ceiling == 1
    assert found.score is None
    assert found.flipped == 0
    alone = topology(same, same, [mask(0, 1, 1, 0)], same_initial=True)
    assert alone.ceiling is None
    assert alone.score is None
    assert "needs ceiling" in next(m.note for m in alone.measurements if m.name == "mask score")


def test_chance_is_what_independent_masks_overlap() -> None:
    rng = seeded(0)
    drawn = [
        Mask(
            {
                "a": torch.rand(300, 100, generator=rng) < 0.1,
                "b": torch.rand(100, 100, generator=rng) < 0.5,
            }
        )
        for _ in range(2)
    ]
    assert drawn[0].iou(drawn[1]) == pytest.approx(chance(*drawn), abs=0.01)
    tenth = Mask({"a": torch.arange(1000).view(10, 100) % 10 == 0})
    assert chance(tenth, tenth) == pytest.approx(0.1 / 1.9)


def test_filters() -> None:
    keep = torch.zeros(3, 2, 2, 2, dtype=torch.bool)
    keep[1, 0, 1, 1] = True
    assert filters(Mask({"weight": keep})).keep["weight"].tolist() == [False, True, False]


def test_refuses() -> None:
    one = mask(1, 0, 0, 1)
    with pytest.raises(InputError, match="different initialisations"):
        topology(one, one, [one], same_initial=False)
    with pytest.raises(InputError, match="at least one oracle"):
        topology(one, one, [], same_initial=True)
    with pytest.raises(InputError, match="no zeros"):
        topology(Mask({}), one, [one], same_initial=True)


@dataclasses.dataclass(frozen=True)
class Squares:
    """Loss a (w x)^2 / 2 summed over outputs: its Hessian is known."""

    def losses(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return 0.5 * (model(batch[0]) ** 2).sum(1)

    def outputs(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return model(batch[0])


def test_bound_proxy_exact() -> None:
    # one output w.x over x in {(2,0), (0,1)}: mean-loss Hessian diag(4, 1) / 2
    model, start = nn.Linear(2, 1, bias=False), nn.Linear(2, 1, bias=False)
    nn.init.constant_(start.weight, 0.0)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[3.0, 4.0]]))
    data = Data([(torch.tensor([2.0, 0.0]), 0), (torch.tensor([0.0, 1.0]), 0)], Squares())
    whole = bound_proxy(model, start, Mask({}), data, lr=0.1, steps=100, rng=seeded(0))
    assert whole.value == pytest.approx(0.1**2 * 100 * 5 * 2, rel=1e-4)
    # without the first coordinate: ||M(w - w0)|| = 4, curvature 1/2
    held = Mask({"weight": torch.tensor([[False, True]])})
    part = bound_proxy(model, start, held, data, lr=0.1, steps=100, rng=seeded(0))
    assert part.value == pytest.approx(0.1**2 * 100 * 4 * 0.5, rel=1e-4)
    assert "not a certificate" in part.note
    assert "not a certificate" in part.direction


def test_bound_proxy_equals_the_hessian_written_out() -> None:
    torch.manual_seed(0)
    model, start = mlp(3, 4, 2).double(), mlp(3, 4, 2).double()
    inputs, labels = torch.randn(10, 3).double(), torch.arange(10) % 2
    data = Data(torch.utils.data.TensorDataset(inputs, labels), Classify(2), batch_size=4)
    held = Mask({"1.weight": torch.arange(12).view(4, 3) % 3 > 0})
    names = [n for n, _ in model.named_parameters()]
    flat = torch.cat([p.detach().flatten() for p in model.parameters()])
    alive = torch.cat(
        [
            held.keep.get(n, torch.ones_like(p, dtype=torch.bool)).flatten()
            for n, p in model.named_parameters()
        ]
    )

    def loss(vector: Tensor) -> Tensor:
        parts = vector.split([p.numel() for p in model.parameters()])
        given = {n: v.view_as(p) for n, v, p in zip(names, parts, model.parameters(), strict=True)}
        return nn.functional.cross_entropy(torch.func.functional_call(model, given, inputs), labels)

    hessian = torch.autograd.functional.hessian(loss, flat)[alive][:, alive]
    moved = (flat - torch.cat([p.detach().flatten() for p in start.parameters()]))[alive].norm()
    expected = 0.05**2 * 30 * moved * torch.linalg.eigvalsh(hessian).abs().max()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    found = bound_proxy(model, start, held, data, lr=0.05, steps=30, rng=seeded(1), iterations=200)
    assert found.value == pytest.approx(float(expected), rel=1e-3)
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


def test_bound_proxy_refuses() -> None:
    model = mlp(3, 4, 2)
    data = Data(torch.utils.data.TensorDataset(torch.randn(4, 3), torch.arange(4) % 2), Classify(2))
    with pytest.raises(InputError, match="positive lr"):
        bound_proxy(model, model, Mask({}), data, lr=0.0, steps=1, rng=seeded(0))
    with pytest.raises(InputError, match="same parameters"):
        bound_proxy(model, mlp(3, 5, 2), Mask({}), data, lr=0.1, steps=1, rng=seeded(0))
    with pytest.raises(EmptyDataError):
        bound_proxy(model, model, Mask({}), data.subset([]), lr=0.1, steps=1, rng=seeded(0))
