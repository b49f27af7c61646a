from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.prune.world import points
from unweave import Data, seeded
from unweave.datasets import of_tensors
from unweave.errors import InputError
from unweave.nets import mlp
from unweave.prune import ExSSNeT
from unweave.prune._supermasks import _Straight, top


def task(seed: int) -> Data:
    data = points(96)
    x, y = data.examples.tensors
    return of_tensors(x[:, torch.randperm(6, generator=seeded(seed))], y, classes=3, batch_size=16)


def method(**fields) -> ExSSNeT:
    return ExSSNeT(
        **{"density": 0.3, "mask_epochs": 6, "weight_epochs": 6, "weight_lr": 0.01, "mask_lr": 0.05} | fields
    )


def shape(batch_norm: bool = True) -> torch.nn.Module:
    return mlp(6, 32, 5, batch_norm=batch_norm)  # more outputs than classes


def outputs(net, i: int) -> Tensor:
    return net(task(i).examples.tensors[0], i).detach()


def test_top_by_hand() -> None:
    assert top(torch.tensor([[3.0, 1.0], [2.0, 2.0]]), 0.5).tolist() == [[True, False], [True, False]]
    scores = torch.tensor([1.0, 3.0], requires_grad=True)
    (_Straight.apply(scores, 0.5) * torch.tensor([5.0, 7.0])).sum().backward()
    assert scores.grad.tolist() == [5.0, 7.0]  # straight through, also where the mask is 0


def test_earlier_tasks_keep_their_bits_and_ssnet_forgets() -> None:
    drift = {}
    for exclusive in (True, False):
        m = method(exclusive=exclusive)
        net = m.start(shape(), rng=seeded(0))
        net = m.learn(net, task(0), rng=seeded(1))
        before, later = outputs(net, 0), net
        for i in (1, 2):
            later = m.learn(later, task(i), rng=seeded(i + 1))
        drift[exclusive] = float((outputs(later, 0) - before).abs().max())
    assert drift[True] == 0.0
    assert drift[False] > 0.01


def test_learns_by_masks_and_more_by_weights() -> None:
    data = task(0)
    losses = []
    for m in (method(weight_epochs=0), method()):
        net = m.apply(shape(), [data], rng=seeded(0))
        losses.append(float(data.task.losses(net.subnetwork(0), next(data.batches())).mean().detach()))
    assert losses[1] < losses[0] < 1.0986  # ln 3 is chance


def test_density_a_layer_free_capacity_and_head() -> None:
    net = method().apply(shape(), [task(0), task(1)], rng=seeded(0))
    for mask in net.masks:
        assert {n: int(a.sum()) for n, a in mask.keep.items()} == {
            "1.weight": round(0.3 * 192),
            "4.weight": 48,
        }
    assert net.free_capacity() == pytest.approx(1 - net.used().count() / (192 + 160))
    assert outputs(net, 0).shape == (96, 3)


def test_supsup_leaves_signed_constants() -> None:
    net = method(weight_epochs=0).apply(shape(False), [task(0)], rng=seeded(0))
    # gain / sqrt(fan-in) = sqrt(2 / 6)
    torch.testing.assert_close(net.backbone[1].weight.abs(), torch.full((32, 6), (2 / 6) ** 0.5))
    assert not net.backbone[1].bias.any()


def test_transfer_picks_the_task_it_is_a_copy_of() -> None:
    rng = seeded(5)
    noise = of_tensors(torch.randn(96, 6, generator=rng), torch.arange(96) % 3, classes=3, batch_size=16)
    m = method(neighbours=5, share=1.0)
    net = m.apply(shape(), [noise, task(0)], rng=seeded(0))
    assert m.source(net, task(0)) == 1
    assert m.source(m.start(shape(), rng=seeded(0)), task(0)) is None


def test_transfer_judges_with_few_examples_too() -> None:
    m = method(share=1.0)  # 200 neighbours, as the paper's code has: more than there are examples
    net = m.apply(shape(), [task(0)], rng=seeded(0))
    assert m.source(net, task(0)) == 0


def test_is_saved_and_loaded_whole() -> None:
    m = method()
    net = m.apply(shape(), [task(0), task(1)], rng=seeded(0))
    fresh = m.start(shape(), rng=seeded(9))
    fresh.load_state_dict(net.state_dict())
    for i in (0, 1):
        assert torch.equal(outputs(fresh, i), outputs(net, i))
    assert fresh.free_capacity() == net.free_capacity()
    again, more = (m.learn(n, task(2), rng=seeded(1)) for n in (fresh, net))
    assert torch.equal(outputs(again, 2), outputs(more, 2))


def test_warns_when_full() -> None:
    m = method(density=1.0, mask_epochs=1, weight_epochs=1)
    with pytest.warns(UserWarning, match="nearly full"):
        m.apply(shape(), [task(0), task(1)], rng=seeded(0))


def test_refuses() -> None:
    with pytest.raises(InputError, match="density must be in"):
        ExSSNeT(density=0.0)
    with pytest.raises(InputError, match="at least 1"):
        ExSSNeT(mask_epochs=0)
    with pytest.raises(InputError, match="learnt 0 tasks"):
        method().start(shape(), rng=seeded(0)).subnetwork(0)
