"""PCSR: queries, routing by a knob, by clusters and by a share, refinement, costs, both stages of training."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import TensorDataset

from unweave import Data, seeded
from unweave.errors import InputError
from unweave.random import global_seed
from unweave.restore import PCSR, PCSRNet, by_clusters, by_knob, knob_for, mixed_loss, refined
from unweave.tasks import Restore

TINY = {
    "backbone": "convs",
    "width": 4,
    "depth": 1,
    "heavy": (8, 8),
    "light": (3,),
    "channels": 1,
    "scale": 2.0,
}


def tiny(**more) -> PCSRNet:
    with global_seed(0):
        return PCSRNet(**{**TINY, **more})


@pytest.mark.parametrize("size", [(8, 6), (11, 7), (4, 3)])
def test_queries_are_the_nearest_cell_its_offset_and_the_pixel(size) -> None:
    net = tiny().double()
    x = torch.rand(2, 1, 4, 3, dtype=torch.float64, generator=seeded(1))
    query, base = net.queries(x, size)
    z = net.features(x)
    for i in range(size[0]):
        for j in range(size[1]):
            y, w = (2 * i + 1) / size[0] - 1, (2 * j + 1) / size[1] - 1  # centre in [-1, 1]
            a, b = min(int((y + 1) / 2 * 4), 3), min(int((w + 1) / 2 * 3), 2)
            cell = ((2 * a + 1) / 4 - 1, (2 * b + 1) / 3 - 1)
            told = [(y - cell[0]) * 4, (w - cell[1]) * 3, 2 / size[0] * 4, 2 / size[1] * 3]
            want = torch.cat([z[:, :, a, b], torch.tensor([told] * 2, dtype=torch.float64)], 1)
            torch.testing.assert_close(query[:, i * size[1] + j], want, atol=1e-9, rtol=0)
    bilinear = F.interpolate(x, size, mode="bilinear", align_corners=False)
    torch.testing.assert_close(base.transpose(1, 2).view(2, 1, *size), bilinear, atol=1e-9, rtol=0)


def test_the_knob_is_the_papers_rule_and_its_ends_are_all_heavy_and_all_light() -> None:
    chance = torch.rand(2, 5, 7, generator=seeded(0)).clamp(0.01, 0.99)
    costs = (10.0, 40.0)
    c = [x / sum(costs) for x in costs]
    for k in (-0.7, 0.0, 0.4):
        rule = chance / c[1] ** k > (1 - chance) / c[0] ** k
        assert torch.equal(by_knob(chance, k, costs), rule)
    assert by_knob(chance, -25, costs).all()
    assert not by_knob(chance, 25, costs).any()
    shares = [float(by_knob(chance, k, costs).float().mean()) for k in (-1, -0.5, 0, 0.5, 1)]
    assert shares == sorted(shares, reverse=True)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
def test_a_knob_for_a_share_gives_that_share(share) -> None:
    chance = torch.rand(1, 10, 10, generator=seeded(0))
    costs = (3.0, 50.0)
    found = by_knob(chance, knob_for(chance, share, costs), costs)
    assert float(found.float().mean()) == pytest.approx(share)
    with pytest.raises(InputError, match=r"must lie in \[0, 1\]; got 2"):
        knob_for(chance, 2, costs)
    with pytest.raises(InputError, match="must cost more"):
        knob_for(chance, 0.5, (3.0, 3.0))


def test_clusters_are_each_pictures_own_and_a_constant_one_is_light() -> None:
    chance = torch.tensor([[[0.10, 0.12, 0.11], [0.5, 0.52, 0.11]], [[0.4, 0.4, 0.4], [0.4, 0.4, 0.4]]])
    assert by_clusters(chance).tolist() == [[[False] * 3, [True, True, False]], [[False] * 3, [False] * 3]]


def test_refinement_averages_light_pixels_beside_heavy_ones_once() -> None:
    made = torch.arange(25.0).view(1, 1, 5, 5) ** 2
    heavy = torch.zeros(1, 5, 5, dtype=torch.bool)
    heavy[0, 2, 1] = True
    out = refined(made, heavy)
    for i in range(5):
        for j in range(5):
            near = abs(i - 2) <= 1 and abs(j - 1) <= 1 and (i, j) != (2, 1) and 0 < i < 4 and 0 < j < 4
            want = made[0, 0, i - 1 : i + 2, j - 1 : j + 2].mean() if near else made[0, 0, i, j]
            torch.testing.assert_close(out[0, 0, i, j], want)


def test_rendering_runs_each_upsampler_on_its_own_pixels() -> None:
    net, x = tiny(), torch.rand(2, 1, 4, 4, generator=seeded(1))
    heavy = torch.rand(2, 8, 8, generator=seeded(2)) < 0.4
    seen = {"heavy": 0, "light": 0}
    for name in seen:
        getattr(net, name).register_forward_pre_hook(
            lambda m, a, name=name: seen.__setitem__(name, seen[name] + len(a[0]))
        )
    with torch.no_grad():
        made = net.render(x, heavy, most=10)
        assert seen == {"heavy": int(heavy.sum()), "light": int((~heavy).sum())}
        query, base = net.queries(x, (8, 8))
        each = [(n(query) + base).transpose(1, 2).view(2, 1, 8, 8) for n in (net.heavy, net.light)]
    torch.testing.assert_close(made, torch.where(heavy[:, None], *each), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(net(x), each[0], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(net.restore(x, knob=-25), each[0].clamp(0, 1), atol=1e-6, rtol=1e-5)


def test_costs_are_counted_and_the_papers_network_is_its_size() -> None:
    net = tiny()
    assert net.costs() == ((9 * 4 + 9 * 16) / 4 + 8 * 3 + 3, (9 * 4 + 9 * 16) / 4 + 8 * 8 + 8 * 8 + 8)
    light, heavy = (2 * c * 128 * 128 / 1e6 for c in PCSRNet().costs())
    assert heavy == pytest.approx(468, rel=0.08)  # million operations a patch of 32x32, FSRCNN's
    assert light < 0.3 * heavy


def test_stage_two_loss_is_the_papers() -> None:
    rng = seeded(0)
    made, wanted = (torch.rand(2, 5, 3, dtype=torch.float64, generator=rng) for _ in range(2))
    chance = torch.rand(2, 5, dtype=torch.float64, generator=rng)
    slow = 1000 * sum(abs(float(a - b)) for a, b in zip(made.flatten(), wanted.flatten(), strict=True)) / 30
    slow += 3 * abs(float(chance.sum()) - 5) / 5
    assert float(mixed_loss(made, chance, wanted, 3.0)) == pytest.approx(slow)


@pytest.fixture(scope="module")
def pairs() -> Data[Restore]:
    rng = seeded(0)
    clean = F.interpolate(torch.rand(8, 1, 4, 4, generator=rng), (12, 12), mode="bicubic").clamp(0, 1)
    return Data(TensorDataset(F.avg_pool2d(clean, 2), clean), Restore(), 4)


def test_training_helps_and_the_second_stage_moves_light_and_classifier_alone(pairs) -> None:
    method = PCSR(**TINY, lr=1e-2, epochs=20, router_epochs=20, queries=60)
    net = method.build(pairs, rng=seeded(0))
    once = PCSR(**TINY, lr=1e-2, epochs=20, router_epochs=1, queries=60).build(pairs, rng=seeded(0))
    a, b = net.state_dict(), once.state_dict()
    assert all(torch.equal(a[n], b[n]) == n.startswith(("features", "heavy")) for n in a)
    assert all(p.requires_grad for p in net.parameters())
    assert pairs.task.measure(net, pairs) > pairs.task.measure(method.initial(seeded(0)), pairs) + 3
    x = pairs.examples.tensors[0]
    assert net.restore(x, scale=2.5).shape == (8, 1, 15, 15)
    assert net.restore(x, adaptive=True).shape == (8, 1, 12, 12)
    assert not torch.equal(net.restore(x, adaptive=True, refine=False), net.restore(x, adaptive=True))


def test_bad_input_is_named(pairs) -> None:
    net = tiny()
    x = torch.rand(1, 1, 4, 4)
    for call, told in (
        (lambda: net.restore(torch.rand(1, 3, 4, 4)), "reads 1 channel; got 3"),
        (lambda: net.restore(x, scale=0.5), "scale must be at least 1; got 0.5"),
        (lambda: net.restore(x, scale=math.nan), "scale must be at least 1"),
        (lambda: net.restore(x, knob=1.0, adaptive=True), "would do nothing beside adaptive"),
        (lambda: PCSR(**{**TINY, "scale": 3.0}).build(pairs, rng=seeded(0)), "PCSR has scale 3"),
        (lambda: PCSR(**TINY, queries=145).build(pairs, rng=seeded(0)), "at most the 144 pixels"),
        (lambda: PCSR(heavy=(0,)), "heavy must be"),
    ):
        with pytest.raises(InputError, match=told):
            call()
