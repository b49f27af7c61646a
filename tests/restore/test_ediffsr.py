"""EDiffSR: the schedule's numbers, the step's mathematics, the sampler beside diffusers, the network and bad input."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import TensorDataset

from unweave import Data, seeded
from unweave.errors import InputError
from unweave.restore import EDiffSR, EDiffSRNet, MeanReverting, step_loss
from unweave.tasks import Restore

TINY = {"channels": 1, "width": 8, "encoder": (1,), "decoder": (1,), "scale": 2}


def tiny(**more) -> EDiffSRNet:
    return EDiffSR(**{**TINY, **more}).initial(seeded(0))


def set_up(shape=(2, 1, 4, 4), seed: int = 0):
    rng = seeded(seed)
    clean, mean, noise = (torch.rand(shape, dtype=torch.float64, generator=rng) for _ in range(3))
    sampler = MeanReverting().sampler()
    sampler.set_mean(mean)
    return sampler, clean, mean, noise - 0.5


def test_the_schedules_numbers_are_the_papers() -> None:
    how = MeanReverting()
    thetas = how.thetas
    assert len(thetas) == 101
    assert float(thetas[0]) == pytest.approx(6.1e-4, rel=0.02)
    assert float(thetas[-1]) == pytest.approx(0.9998, abs=1e-4)
    assert how.dt == pytest.approx(0.10409, abs=1e-5)
    assert math.exp(-float(how.passed[-1])) == pytest.approx(0.005)
    assert float(how.passed[0]) == 0
    sampler = how.sampler()
    assert float(sampler._at(100, torch.zeros(1, 1, dtype=torch.float64))[1]) == pytest.approx(
        0.19608, abs=1e-5
    )
    assert [len(MeanReverting(kind=k, steps=7).thetas) for k in ("linear", "constant")] == [8, 8]
    assert float(MeanReverting(kind="linear", steps=7).passed[-1]) == pytest.approx(-math.log(0.005))


@pytest.mark.parametrize(("t", "s"), [(60, 59), (80, 40), (2, 1)])
def test_the_best_step_is_the_mean_of_the_gaussian_posterior(t, s) -> None:
    sampler, clean, mean, noise = set_up()
    x = sampler.add_noise(clean, noise, torch.tensor([t, t]))
    kept = math.exp(-float(sampler.passed[s]))
    before, variance = mean + (clean - mean) * kept, sampler.schedule.spread**2 * (1 - kept**2)
    a = math.exp(-float(sampler.passed[t] - sampler.passed[s]))
    step_variance = sampler.schedule.spread**2 * (1 - a**2)
    gain = variance * a / (a * a * variance + step_variance)  # x_t = mean + a (x_s - mean) + noise
    wanted = before + gain * (x - (mean + a * (before - mean)))
    torch.testing.assert_close(sampler.best(x, clean, t, s), wanted, atol=1e-10, rtol=0)
    left = variance - gain * a * variance
    assert sampler._posterior(t, s) == pytest.approx(left**0.5)


def test_with_the_true_noise_the_best_steps_end_at_the_clean_picture() -> None:
    sampler, clean, mean, noise = set_up()
    x = sampler.begin(noise)
    for t in sampler.timesteps:
        x = sampler.best(x, clean, int(t))
    assert float((x - clean).abs().max()) < 1e-3
    x = sampler.add_noise(clean, noise, torch.tensor([50, 50]))
    torch.testing.assert_close(sampler.clean(noise, 50, x), clean, atol=1e-9, rtol=0)


def test_the_euler_step_is_near_the_best_one_and_written_as_in_the_paper() -> None:
    sampler, clean, mean, noise = set_up()
    how = sampler.schedule
    for t in (30, 50, 70):
        x = sampler.add_noise(clean, noise, torch.tensor([t, t]))
        theta, v = float(how.thetas[t]), how.spread * math.sqrt(1 - math.exp(-2 * float(how.passed[t])))
        sigma2 = 2 * how.spread**2 * theta
        m = x - (theta * (mean - x) - sigma2 * (-noise / v)) * how.dt
        torch.testing.assert_close(sampler.euler(noise, x, t), m, atol=1e-10, rtol=0)
        half = x - (theta * (mean - x) - 0.5 * sigma2 * (-noise / v)) * how.dt
        torch.testing.assert_close(sampler.euler(noise, x, t, half=True), half, atol=1e-10, rtol=0)
        assert float((m - sampler.best(x, clean, t)).abs().max()) < 2e-2
    at = torch.tensor([30, 70])
    x = sampler.add_noise(clean, noise, at)
    each = torch.stack([_of(sampler, clean, mean, noise, i, int(t)) for i, t in enumerate(at)])
    torch.testing.assert_close(sampler.euler(noise, x, at), each, atol=1e-10, rtol=0)


def _of(sampler, clean, mean, noise, i, t):
    alone = sampler.schedule.sampler()
    alone.set_mean(mean[i : i + 1])
    x = alone.add_noise(clean[i : i + 1], noise[i : i + 1], torch.tensor([t]))
    return alone.euler(noise[i : i + 1], x, t)[0]


def test_steps_add_the_papers_noise_and_the_flow_none() -> None:
    sampler, clean, _, noise = set_up((1, 1, 100, 100))
    x = sampler.add_noise(clean, noise, torch.tensor([60]))
    mean = sampler.euler(noise, x, 60)
    drawn = sampler.step(noise, 60, x, generator=seeded(0)).prev_sample - mean
    theta = float(sampler.schedule.thetas[60])
    wanted = math.sqrt(2 * theta * sampler.schedule.dt) * sampler.schedule.spread
    assert float(drawn.std()) == pytest.approx(wanted, rel=0.03)
    flow = sampler.step(noise, 60, x, mode="ode").prev_sample
    torch.testing.assert_close(flow, sampler.euler(noise, x, 60, half=True))
    sampler.set_timesteps(4)
    assert sampler.timesteps.tolist() == [100, 75, 50, 25]
    last = sampler.step(noise, 25, x, mode="posterior", return_dict=False)[0]
    torch.testing.assert_close(last, sampler.clean(noise, 25, x).clamp(0, 1))  # no noise is left at step 0


@pytest.mark.slow
def test_diffusers_takes_it_as_a_scheduler(tmp_path) -> None:
    diffusers = pytest.importorskip("diffusers")
    sampler, clean, mean, noise = set_up()
    scheduler = sampler.as_scheduler()
    assert isinstance(scheduler, diffusers.SchedulerMixin)
    scheduler.set_timesteps(5)
    assert scheduler.timesteps.tolist() == [100, 80, 60, 40, 20]
    ours = sampler.step(noise, 60, mean, generator=seeded(0))
    theirs = scheduler.step(noise, 60, mean, generator=seeded(0))
    assert torch.equal(ours.prev_sample, theirs.prev_sample)
    assert scheduler.config.spread == pytest.approx(50 / 255)
    scheduler.save_pretrained(tmp_path)
    read = type(scheduler).from_pretrained(tmp_path)
    read.set_mean(mean)
    assert torch.equal(
        read.add_noise(clean, noise, torch.tensor([9, 9])),
        sampler.add_noise(clean, noise, torch.tensor([9, 9])),
    )


def test_a_block_begins_as_identity_and_the_network_takes_any_side() -> None:
    from unweave.restore.ediffsr.network import _Block

    x = torch.rand(1, 8, 3, 5)
    assert torch.equal(_Block(8, 32)(x, torch.rand(1, 32)), x)
    for prior in ("joint", "condition", "none"):
        net = tiny(prior=prior, encoder=(1, 1), decoder=(1, 1))
        made = net(torch.rand(2, 1, 5, 7), torch.rand(2, 1, 5, 7), torch.tensor([3, 90]))
        assert made.shape == (2, 1, 5, 7)
    net = tiny()
    x, mean = torch.rand(1, 1, 6, 6), torch.rand(1, 1, 6, 6)
    assert torch.equal(net(x, mean, torch.tensor([4])), net(x, mean, torch.tensor(4)))
    assert sum(p.numel() for p in EDiffSRNet().parameters()) == pytest.approx(20.4e6, rel=0.001)


@pytest.fixture(scope="module")
def pairs() -> Data[Restore]:
    rng = seeded(0)
    clean = F.interpolate(torch.rand(8, 1, 4, 4, generator=rng), (16, 16), mode="bicubic").clamp(0, 1)
    return Data(TensorDataset(F.avg_pool2d(clean, 2), clean), Restore(), 4)


def test_training_lowers_the_loss_and_the_mean_of_weights_is_handed_out(pairs) -> None:
    method = EDiffSR(**TINY, lr=3e-3, epochs=15, average=0.5)
    net, raw = (
        method.build(pairs, rng=seeded(0)),
        EDiffSR(**TINY, lr=3e-3, epochs=15, average=0).build(pairs, rng=seeded(0)),
    )
    assert not torch.equal(net.tail.weight, raw.tail.weight)
    batch = next(pairs.batches())

    def loss(m) -> float:
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(1)
            return float(sum(step_loss(m, pairs.task, batch) for _ in range(20)))

    assert loss(raw) < 0.8 * loss(method.initial(seeded(0)))
    x = pairs.examples.tensors[0][:2]
    once, again, other = (net.restore(x, steps=5, rng=seeded(s)) for s in (1, 1, 2))
    assert torch.equal(once, again)
    assert not torch.equal(once, other)
    assert once.shape == (2, 1, 16, 16)
    mean = net.restore(x, steps=5, samples=2, rng=seeded(1))
    assert not torch.equal(mean, once)
    assert float(once.min()) >= 0
    assert float(once.max()) <= 1


def test_bad_input_is_named(pairs) -> None:
    net, x = tiny(), torch.rand(1, 1, 8, 8)
    data = lambda a, b: Data(TensorDataset(torch.rand(2, 1, *a), torch.rand(2, 1, *b)), Restore(), 2)  # noqa: E731
    for call, told in (
        (lambda: net.restore(255 * x), r"values in \[0, 1\]; got .*Divide by the largest"),
        (lambda: net.restore(x[..., :7]), "sides of at least 8"),
        (lambda: net.restore(x, steps=0), "1 to 100 steps"),
        (lambda: net.restore(x, samples=0), "samples must be at least 1"),
        (lambda: EDiffSR(**TINY).build(data((16, 16), (8, 8)), rng=seeded(0)), "sides of at least 16"),
        (lambda: EDiffSR(**TINY).build(data((32, 32), (16, 16)), rng=seeded(0)), "Are the two swapped"),
        (lambda: EDiffSR(encoder=(1,)), "as many levels"),
        (lambda: MeanReverting(spread=50.0), "at most 1; got 50. Of 255 levels that is 0.1961"),
        (lambda: MeanReverting().sampler().begin(x), "no mean to revert to"),
        (lambda: set_up()[0].step(x, 101, x), "takes no step at 101"),
    ):
        with pytest.raises(InputError, match=told):
            call()
