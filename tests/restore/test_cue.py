"""CUE: filters, gradients, the steps of the unfolding, what is compared, priors that are used, and bad pictures."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import TensorDataset

from unweave import Data, seeded
from unweave.errors import InputError
from unweave.random import global_seed
from unweave.restore import (
    CUE,
    CUENet,
    GradientPrior,
    IlluminationPrior,
    bilateral,
    drawn_gradients,
    retinex_loss,
)
from unweave.restore.cue.cue import consistency, smoothness
from unweave.restore.cue.enhancer import data_step, shrunk
from unweave.tasks import Restore

TINY = {"width": 4, "hidden": 4, "prior": 2}
SMALL = {**TINY, "patch": 8, "tokens": 16, "depth": 1, "window": 4}


def tiny(**more) -> CUENet:
    with global_seed(0):
        return CUENet(**{**TINY, **more})


def test_the_bilateral_filter_is_the_textbooks() -> None:
    x = torch.rand(1, 1, 6, 5, dtype=torch.float64, generator=seeded(0))
    made = bilateral(x, reach=2, colour=0.2, space=3.0)
    for i in range(6):
        for j in range(5):
            total = weight = 0.0
            for a in range(-2, 3):
                for b in range(-2, 3):
                    v = float(x[0, 0, min(max(i + a, 0), 5), min(max(j + b, 0), 4)])
                    w = math.exp(-((v - float(x[0, 0, i, j])) ** 2) / 0.08 - (a * a + b * b) / 18)
                    total, weight = total + w * v, weight + w
            assert float(made[0, 0, i, j]) == pytest.approx(total / weight, abs=1e-12)
    edge = torch.zeros(1, 1, 8, 8)
    edge[..., 4:] = 1
    assert float((bilateral(edge) - edge).abs().max()) < 1e-3  # an edge stays


def test_gradients_are_drawn_along_edges_and_a_flat_picture_is_black() -> None:
    x = torch.zeros(2, 3, 16, 16)
    x[0, :, :, 4:] = 1  # a vertical edge in the left cells
    drawn = drawn_gradients(x, 8)
    assert drawn.shape == (2, 1, 16, 16)
    assert not drawn[1].any()
    cell = drawn[0, 0, :8, :8]
    assert float(drawn.max()) == 1
    assert float(cell.sum(0).max()) > 3 * float(cell.sum(1).max())  # a line down, not across
    assert not drawn[0, 0, :, 8:].any()
    with pytest.raises(InputError, match="no multiple"):
        drawn_gradients(x, 5)


def test_a_data_step_is_half_a_gradient_and_lowers_what_it_steps_on() -> None:
    rng = seeded(0)
    x, r, l, n = (torch.rand(2, 3, 4, 4, dtype=torch.float64, generator=rng) for _ in range(4))
    l.requires_grad_(True)
    energy = (x - r * l - n).square().sum()
    slope = torch.autograd.grad(energy, l)[0]
    moved = data_step(l, r, n, x, 0.05)
    torch.testing.assert_close(moved, l - 0.05 / 2 * slope, atol=1e-12, rtol=0)
    assert float((x - r * moved - n).detach().square().sum()) < float(energy.detach())
    assert shrunk(torch.tensor([-0.5, 0.05, 0.3]), 0.1).tolist() == pytest.approx([-0.4, 0, 0.2])


def test_one_stage_is_the_maximum_and_the_quotient_and_updates_are_the_papers() -> None:
    x = torch.rand(1, 3, 6, 6, dtype=torch.float64, generator=seeded(0)) * 0.3
    first = tiny(stages=1).double().parts(x)
    light = x.amax(1, keepdim=True)
    torch.testing.assert_close(first.light, light)
    torch.testing.assert_close(first.light * first.reflectance, x, atol=1e-6, rtol=0)
    net = tiny(stages=2).double()
    r = x / (light + 1e-8)
    second = net.parts(x)
    lifted = ((1 - 1e-3 * r * r) * light + 1e-3 * r * x).mean(1, keepdim=True)
    lifted = lifted + net.move_light(net.prior.features(light))
    torch.testing.assert_close(second.light, lifted)
    bare = (1 - 1e-3 * lifted**2) * r + 1e-3 * lifted * x
    r2 = (bare + net.move_reflectance(bare)).clamp(0, 10)
    torch.testing.assert_close(second.reflectance, r2)
    left = x - r2 * lifted
    bare = left.sign() * (left.abs() - 0.1).clamp_min(0)
    torch.testing.assert_close(second.noise, bare + net.move_noise(bare))
    torch.testing.assert_close(net(x), second.bright_light * second.bright_reflectance)


def test_black_pixels_stay_finite_and_odd_sides_are_taken() -> None:
    net = tiny()
    assert torch.isfinite(net.restore(torch.zeros(1, 3, 7, 5))).all()
    assert net.restore(torch.rand(1, 3, 7, 5) * 0.2).shape == (1, 3, 7, 5)
    x = torch.rand(1, 3, 8, 8, generator=seeded(0)) * 0.2
    assert not torch.equal(net.parts(x, 2.0).bright_light, net.parts(x, 8.0).bright_light)


def test_smooth_light_costs_less_and_agreeing_gradients_less_than_lone_ones() -> None:
    flat, edge = torch.full((1, 1, 8, 8), 0.5), torch.zeros(1, 1, 8, 8)
    edge[..., 4:] = 1
    picture = edge.expand(1, 3, -1, -1)
    assert float(smoothness(flat, picture)) == 0
    assert float(smoothness(edge, picture)) < float(smoothness(edge.transpose(2, 3), picture))
    assert float(consistency(edge, edge)) < float(consistency(edge, flat))
    assert float(consistency(flat, flat)) == 0


def test_the_loss_is_what_the_head_says() -> None:
    net, rng = tiny().double(), seeded(3)
    dark, bright = torch.rand(2, 3, 8, 8, dtype=torch.float64, generator=rng) * 0.2, torch.rand(2, 3, 8, 8, dtype=torch.float64, generator=rng)  # fmt: skip
    a, b = net.parts(dark), net.parts(bright)
    l1 = lambda p, q: (p - q).abs().mean()  # noqa: E731
    g = lambda t, d: t.diff(dim=d).abs() ** 2  # noqa: E731
    want = (
        l1(a.light * a.reflectance + a.noise, dark)
        + l1(b.light * b.reflectance, bright)
        + 0.009 * l1(a.reflectance, b.reflectance)
    )
    want = want + 0.001 * (smoothness(a.light, dark) + smoothness(b.light, bright))
    want = (
        want
        + 0.2 * (consistency(a.light, b.light) + consistency(a.bright_light, b.light))
        + l1(a.picture, bright)
    )
    want = want + F.mse_loss(a.bright_light, b.light) + l1(a.bright_reflectance, b.reflectance)
    want = want + 5 * sum(F.mse_loss(g(a.bright_light, d), g(b.light, d)) for d in (2, 3))
    torch.testing.assert_close(retinex_loss(net, dark, bright, None, 0.0), want)
    judge = GradientPrior(8, 16, 1).double().eval()
    judged = retinex_loss(net, dark, bright, judge, 0.5)
    torch.testing.assert_close(judged - want, 0.5 * l1(judge.tokens(a.picture), judge.tokens(bright)))


def test_priors_learn_what_is_hidden() -> None:
    x = F.interpolate(torch.rand(8, 3, 3, 3, generator=seeded(0)), (16, 16), mode="bilinear")
    for prior, read in (
        (IlluminationPrior(3), lambda p: p.loss(x.amax(1, keepdim=True), 4, 0.5)),
        (GradientPrior(8, 16, 1), lambda p: p.loss(x, 0.5)),
    ):
        with global_seed(0):
            adam, losses = torch.optim.Adam(prior.parameters(), 1e-2), []
            for _ in range(20):
                adam.zero_grad()
                loss = read(prior)
                loss.backward()
                adam.step()
                losses.append(float(loss.detach()))
        assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    with pytest.raises(InputError, match="multiples of 8"):
        prior.tokens(torch.rand(1, 3, 12, 16))


@pytest.fixture(scope="module")
def pairs() -> Data[Restore]:
    rng = seeded(0)
    bright = F.interpolate(torch.rand(8, 3, 4, 4, generator=rng), (16, 16), mode="bilinear")
    dark = (0.15 * bright**2.2 + 0.01 * torch.randn(bright.shape, generator=rng)).clamp(0, 1)
    return Data(TensorDataset(dark, bright), Restore(), 4)


def test_training_brightens(pairs) -> None:
    method = CUE(**SMALL, stages=2, lr=5e-3, prior_epochs=1, epochs=10)
    net = method.build(pairs, rng=seeded(0))
    dark, bright = pairs.examples.tensors
    apart = (net.restore(dark) - bright).square().mean()
    assert float(apart) < 0.25 * float((dark - bright).square().mean())


def test_bad_pictures_are_named(pairs) -> None:
    net = tiny()
    with pytest.warns(UserWarning, match=r"bright already \(mean 0.90\)"):
        net.restore(torch.full((1, 3, 8, 8), 0.9))
    for call, told in (
        (lambda: net.restore(torch.rand(1, 1, 8, 8)), "reads 3 channels; got 1"),
        (lambda: net.restore(torch.full((1, 3, 8, 8), 90.0)), r"values in \[0, 1\]"),
        (lambda: net.restore(torch.rand(1, 3, 8, 8) * 0.1, ratio=0.0), "ratio must be above 0"),
        (lambda: CUE(**{**SMALL, "patch": 5}).build(pairs, rng=seeded(0)), "sides multiples of 5"),
        (lambda: CUE(tokens=20), "multiple of 16"),
    ):
        with pytest.raises(InputError, match=told):
            call()
