"""CODE: each line by hand, the way there and back, the walk's own distribution, real pipelines, refusals."""

from __future__ import annotations

from math import log10, sqrt
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.erase.pipelines import pipeline
from unweave import seeded
from unweave.errors import InputError
from unweave.generate import CODE, SIM, Prior, confident, sdedit

SHARES = torch.linspace(1 - 1e-4, 1 - 0.02, 1000, dtype=torch.float64).cumprod(0)
MEAN = torch.tensor([0.6, -0.4, 0.0, 0.3], dtype=torch.float64)
STD = torch.tensor([0.1, 0.2, 0.3, 0.05], dtype=torch.float64)
PLAIN = CODE(steps=100, depth=0.5, step_size=0.0, clip=(), threshold=False)


def noise_of(x: Tensor, t: int) -> Tensor:
    """The exact noise in x where clean values are normal with `MEAN` and `STD`."""
    a, b = SHARES[t].sqrt(), (1 - SHARES[t]).sqrt()
    return b * (x - a * MEAN) / (a**2 * STD**2 + b**2)


NORMAL = Prior(noise_of, SHARES, lambda steps: [round(k * 999 / (steps - 1)) for k in range(steps)])


def clean(n: int = 500) -> Tensor:
    return (MEAN + STD * torch.randn(n, 4, generator=seeded(0), dtype=torch.float64)).clamp(-1, 1)


def test_the_way_there_and_back_returns_the_picture() -> None:
    x = clean()
    back = PLAIN.edit(NORMAL, x, rng=seeded(1))
    assert 10 * log10(4 / float((back - x).square().mean())) > 35
    # by the exact flow: a code of the mean is the mean's
    at_mean = PLAIN.encoded(NORMAL, MEAN[None], NORMAL.times(100)[:51])
    torch.testing.assert_close(at_mean[0], SHARES[NORMAL.times(100)[50]].sqrt() * MEAN, rtol=0, atol=0.01)


@pytest.mark.filterwarnings("ignore:CODE. the noise predicted")
@pytest.mark.parametrize(("bound", "largest"), [(None, 1.0), (1.5, 1.5)])
def test_one_step_of_the_way_by_hand(bound, largest) -> None:
    how = CODE(steps=100, depth=0.5, step_size=0.0, quantile=0.5, most=1.2, bound=bound)
    wide = Prior(lambda x, _: 0.1 * x, SHARES, NORMAL.times)  # sees clean values past 1
    x, now, then = torch.tensor([[0.2, -2.5, 1.4, 1.9]], dtype=torch.float64), 100, 110
    a, b = sqrt(float(SHARES[now])), sqrt(1 - float(SHARES[now]))
    limit = a * largest + 2 * b
    assert confident(float(SHARES[now]), 2.0, largest) == pytest.approx(limit)
    cut = x.clamp(-limit, limit)
    seen = (cut - b * 0.1 * cut) / a
    s = min(1.2, max(1.0, float(torch.quantile(seen.abs().float(), 0.5)) / largest))
    kept = seen.clamp(-s * largest, s * largest) / s
    noise = (cut - a * kept) / b
    wanted = float(SHARES[then]) ** 0.5 * kept + (1 - float(SHARES[then])) ** 0.5 * noise
    torch.testing.assert_close(how.encoded(wide, x, [now, then]), wanted, rtol=0, atol=1e-6)
    assert not torch.equal(kept, seen)
    assert not torch.equal(cut, x)


def test_at_two_deviations_few_values_of_true_codes_are_clipped() -> None:
    x = torch.rand(4000, generator=seeded(0)) * 2 - 1
    for share in (0.99, 0.5, 0.1, 0.001):
        code = share**0.5 * x + (1 - share) ** 0.5 * torch.randn(4000, generator=seeded(1))
        assert float((code.abs() > confident(share, 2.0)).float().mean()) < 0.05


def test_the_walk_ends_in_the_models_own_distribution() -> None:
    t, n = 300, 4000
    how = CODE(updates=400, step_size=0.1, stages=2, threshold=False, clip=())
    a, b = float(SHARES[t]) ** 0.5, (1 - float(SHARES[t])) ** 0.5
    x = how.updated(NORMAL, torch.full((n, 4), 2.0, dtype=torch.float64), t, seeded(0))
    torch.testing.assert_close(x.mean(0), a * MEAN, rtol=0, atol=0.05)
    torch.testing.assert_close(x.std(0), (a**2 * STD**2 + b**2).sqrt(), rtol=0.1, atol=0)


def test_updates_are_shared_out_over_the_stages_and_end_without_noise() -> None:
    how = CODE(updates=6, step_size=0.1, stages=4, decay=0.5, threshold=False, clip=())
    flat = Prior(lambda x, _: torch.ones_like(x), torch.tensor([0.75, 0.5]), lambda _: [0, 1])
    x, rng = torch.zeros(1, 3, dtype=torch.float64), seeded(3)
    wanted = x.clone()
    for size in (0.05, 0.05, 0.025, 0.025, 0.0125, 0.00625):  # shares of 1 - 0.5; the slope is -1 / sqrt(0.5)
        wanted = wanted - size / sqrt(0.5) + sqrt(2 * size) * torch.randn(x.shape, generator=rng).double()
    torch.testing.assert_close(how.updated(flat, x, 1, seeded(3)), wanted - 0.00625 / sqrt(0.5))


@pytest.mark.filterwarnings("ignore:CODE. the noise predicted")
def test_moves_what_is_unlikely_and_more_at_greater_depth() -> None:
    odd = torch.full((200, 4), -0.9, dtype=torch.float64)
    far = [float((CODE(steps=50, depth=d, updates=60, threshold=False).edit(NORMAL, odd, rng=seeded(0)) - MEAN).abs().mean())
           for d in (0.1, 0.5)]  # fmt: skip
    assert far[1] < far[0] < float((odd - MEAN).abs().mean())
    two = CODE(steps=50, depth=0.5, shallowest=0.3, depths=2, updates=60, threshold=False)
    assert float((two.edit(NORMAL, odd, rng=seeded(0)) - MEAN).abs().mean()) < 1.5 * far[1]
    drawn = sdedit(NORMAL, odd, rng=seeded(0), depth=0.5, steps=50)
    assert float((drawn - MEAN).abs().mean()) < far[0]


def test_clipping_keeps_a_picture_that_the_model_does_not_know_near_it() -> None:
    wild = Prior(lambda x, _: 5 * x, SHARES, NORMAL.times)  # predicts more noise the further off it is
    x = torch.tensor([[0.9, -0.9, 0.5, 0.1]], dtype=torch.float64)
    with pytest.warns(UserWarning, match="has left what the model knows"):
        lost = CODE(steps=50, depth=0.5, clip=(), threshold=False).encoded(wild, x, wild.times(50)[:25])
    with pytest.warns(UserWarning, match="has left what the model knows"):
        kept = CODE(steps=50, depth=0.5, threshold=False).encoded(wild, x, wild.times(50)[:25])
    assert float(kept.abs().max()) < 4 < 8 < float(lost.abs().max())


def test_edits_with_pipelines_of_ours_and_of_diffusers() -> None:
    from types import SimpleNamespace

    from diffusers import DDPMScheduler, UNet2DModel

    how: Any = {"steps": 4, "depth": 0.5, "updates": 2}
    ours = pipeline("sd")
    images = torch.rand(2, 3, 16, 16, generator=seeded(0)) * 2 - 1
    with pytest.raises(InputError, match="bound must be given for a pipeline with a VAE"):
        CODE(**how).edit(ours, images, rng=seeded(0))
    assert CODE(**how, bound=4.0).edit(ours, images, rng=seeded(0)).shape == images.shape
    unet = UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(8, 16), norm_num_groups=4,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
    ).eval()  # fmt: skip
    x = torch.rand(2, 1, 8, 8, generator=seeded(0)) * 2 - 1
    found = {}
    for kind in ("epsilon", "v_prediction"):
        whole = SimpleNamespace(unet=unet, scheduler=DDPMScheduler(prediction_type=kind))
        prior = Prior.of(whole)
        with torch.no_grad():
            a, b, out = *prior.rates(300), unet(x, 300).sample
            wanted = out if kind == "epsilon" else a * out + b * x
            torch.testing.assert_close(prior.predict(x, 300), wanted, rtol=1e-4, atol=1e-5)
        found[kind] = CODE(**how).edit(whole, x, rng=seeded(0))
    assert not torch.allclose(found["epsilon"], found["v_prediction"])
    classes = UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8,), down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",), norm_num_groups=4, num_class_embeds=3,
    )  # fmt: skip
    with pytest.raises(InputError, match="reads a class"):
        CODE(**how).edit(SimpleNamespace(unet=classes, scheduler=DDPMScheduler()), x, rng=seeded(0))
    with pytest.raises(InputError, match="reads encoder_hidden_states"):
        CODE(**how).edit(SimpleNamespace(unet=ours.denoiser, scheduler=DDPMScheduler()), x, rng=seeded(0))
    small = SIM(steps=1, warm_up=1, batch_size=2).apply(ours, ["a cat"], rng=seeded(0))
    with pytest.raises(InputError, match="no way into the noise and back"):
        CODE(**how).edit(small, images, rng=seeded(0))


def test_refuses_by_name() -> None:
    with pytest.raises(InputError, match="between -1 and 1; got 0 to 255"):
        CODE().edit(NORMAL, torch.tensor([[0.0, 255.0, 3.0, 4.0]]), rng=seeded(0))
    with pytest.raises(InputError, match="must lie between -1 and 1"):
        CODE().edit(NORMAL, torch.tensor([[0.0, float("nan"), 0.0, 0.0]]), rng=seeded(0))
    with pytest.raises(InputError, match="are of shape"):
        CODE(bound=4.0).edit(pipeline("sd"), torch.zeros(1, 3, 8, 8), rng=seeded(0))
    with pytest.raises(InputError, match="got a str"):
        CODE().edit("a folder", torch.zeros(1, 4), rng=seeded(0))
    silent = Prior(noise_of, torch.tensor([1.0, 0.5]), lambda _: [0, 1])
    with pytest.raises(InputError, match="no noise at time 0"):
        CODE(steps=2, depth=1.0).edit(silent, torch.zeros(1, 4), rng=seeded(0))
    with pytest.raises(InputError, match="updates=10 would do nothing with step_size=0"):
        CODE(step_size=0.0, updates=10)
    with pytest.raises(InputError, match=r"eta=1.0 would do nothing with clip=\(\)"):
        CODE(clip=(), eta=1.0)
    with pytest.raises(InputError, match="shallowest must be below depth"):
        CODE(depths=2, shallowest=0.5)
    with pytest.raises(InputError, match="would do nothing with depths=1"):
        CODE(shallowest=0.05)
    with pytest.warns(UserWarning, match="diverge at 2"):
        CODE(step_size=0.6)
