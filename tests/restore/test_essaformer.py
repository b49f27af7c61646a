"""ESSAformer: attention at linear cost beside the quadratic order, the shared modules, tiles and bad cubes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import TensorDataset

from unweave import Data, seeded
from unweave.errors import InputError
from unweave.restore import ESSAformer, ESSAformerNet, attention
from unweave.restore._tiles import tiled
from unweave.tasks import Restore


def tokens(n: int = 2, count: int = 7, channels: int = 4) -> list[torch.Tensor]:
    rng = seeded(0)
    return [torch.randn(n, count, channels, dtype=torch.float64, generator=rng) for _ in range(3)]


def slow(q, k, v, full: bool) -> torch.Tensor:
    """Token by token, the weights of all pairs written out."""
    out = v.clone()
    n, count, channels = q.shape

    def features(x):
        c = x - x.mean()
        f = torch.outer(c, c).flatten() if full else c * c
        return f / ((c * c).sum() + 1e-7)

    for b in range(n):
        keys = torch.stack([features(k[b, j]) for j in range(count)])
        lengths = keys.square().sum(0).sqrt()
        for i in range(count):
            query = features(q[b, i])
            query = query / query.square().sum().sqrt()
            for j in range(count):
                out[b, i] += (query * keys[j] / lengths).sum() * v[b, j] / count**0.5
    return out


@pytest.mark.parametrize("kernel", ["square", "scc2"])
def test_linear_order_equals_all_pairs(kernel) -> None:
    q, k, v = tokens()
    torch.testing.assert_close(attention(q, k, v, kernel), slow(q, k, v, kernel == "scc2"), atol=1e-9, rtol=0)


def test_full_features_are_the_squared_correlation_and_baselines_what_they_say() -> None:
    q, k, v = tokens(n=1)
    c = [x - x.mean(-1, keepdim=True) for x in (q, k)]
    maps = [(x.unsqueeze(-1) * x.unsqueeze(-2)).flatten(2) / x.square().sum(-1, keepdim=True) for x in c]
    scc = F.cosine_similarity(c[0].unsqueeze(2), c[1].unsqueeze(1), dim=-1)
    torch.testing.assert_close(maps[0] @ maps[1].transpose(1, 2), scc.square(), atol=1e-12, rtol=0)
    assert torch.equal(attention(q, k, v, "none"), v)
    plain = torch.softmax(q @ k.transpose(1, 2) / 2, -1) @ v
    torch.testing.assert_close(attention(q, k, v, "softmax"), v + plain, atol=1e-12, rtol=0)
    a, b = F.elu(q) + 1, F.elu(k) + 1
    weights = a @ b.transpose(1, 2)
    wanted = v + weights / weights.sum(-1, keepdim=True) @ v
    torch.testing.assert_close(attention(q, k, v, "elu"), wanted, atol=1e-12, rtol=0)


def test_flat_spectra_add_nothing_and_half_precision_stays_finite() -> None:
    _, k, v = tokens()
    assert torch.equal(attention(torch.full_like(v, 3.0), k, v), v)
    halves = [x.half() for x in (torch.full_like(v, 3.0), torch.full_like(v, 1.0), v)]
    assert torch.equal(attention(*halves), halves[2])


def test_the_network_repeats_one_set_of_modules_as_the_paper_says() -> None:
    net = ESSAformer(scale=2, bands=3, dim=4, dropout=0, bicubic=True).initial(seeded(0)).double().eval()
    y = torch.rand(1, 3, 4, 5, dtype=torch.float64, generator=seeded(1))
    x = net.head(y)
    x1 = net.attend_up(net.up(x))
    x2 = net.attend_down(net.down(x1) + x)
    x3 = net.attend_up(net.up(x2) + x1)
    x4 = net.attend_down(net.down(x3) + x2)
    x5 = net.attend_up(net.up(x4) + x3)
    wanted = net.tail(x5) + F.interpolate(y, scale_factor=2, mode="bicubic", align_corners=False)
    assert torch.equal(net(y), wanted)


@pytest.mark.parametrize(("scale", "dim"), [(3, 9), (4, 4), (8, 4)])
def test_every_scale_has_its_size_and_bands_are_any(scale, dim) -> None:
    net = ESSAformerNet(scale=scale, bands=5, dim=dim, rounds=1)
    assert net.restore(torch.rand(1, 5, 3, 2)).shape == (1, 5, 3 * scale, 2 * scale)


def test_tiles_cover_all_and_are_a_mean_where_they_meet() -> None:
    x = torch.rand(1, 2, 12, 9, generator=seeded(0))
    larger = lambda t: t.repeat_interleave(2, 2).repeat_interleave(2, 3)  # noqa: E731
    torch.testing.assert_close(tiled(larger, x, 5, 2, 2), larger(x), atol=1e-6, rtol=0)
    seen = iter(range(1, 9))
    numbered = tiled(lambda t: torch.full_like(t, float(next(seen))), torch.rand(1, 1, 1, 5), 3, 1)
    assert numbered.flatten().tolist() == [1, 1, 1.5, 2, 2]
    with pytest.raises(InputError, match="an overlap from 0 to 1; got 2"):
        tiled(larger, x, 2, 2)


def test_a_larger_field_than_in_training_is_told_and_tiles_are_the_cure() -> None:
    x = torch.rand(1, 2, 12, 9, generator=seeded(0))
    net = ESSAformerNet(scale=2, bands=2, dim=4, rounds=0, tokens=64)
    with pytest.warns(UserWarning, match=r"trained on 64 pixels at once and reads 432.*tile=4"):
        net.restore(x)
    assert net.restore(x, tile=4).shape == (1, 2, 24, 18)


@pytest.fixture(scope="module")
def cubes() -> Data[Restore]:
    rng = seeded(0)
    clean = F.interpolate(torch.rand(8, 3, 4, 4, generator=rng), scale_factor=2, mode="bilinear")
    return Data(TensorDataset(F.avg_pool2d(clean, 2), clean), Restore(), 4)


def test_training_helps(cubes) -> None:
    method = ESSAformer(scale=2, bands=3, dim=8, rounds=0, dropout=0, lr=5e-3, epochs=12)
    net = method.build(cubes, rng=seeded(0))
    assert net.tokens == 64
    assert cubes.task.measure(net, cubes) > cubes.task.measure(method.initial(seeded(0)), cubes) + 3


def test_bad_cubes_are_named(cubes) -> None:
    net = ESSAformerNet(scale=2, bands=3, dim=4)
    with pytest.raises(InputError, match="reads 3 channels; got 4"):
        net(torch.rand(1, 4, 4, 4))
    with pytest.raises(InputError, match="NaN or infinity. Mask or fill"):
        net.restore(torch.full((1, 3, 4, 4), torch.nan))
    with pytest.raises(InputError, match="dim must be a multiple of 9 for scale 3"):
        ESSAformer(scale=3, dim=256)
    with pytest.raises(InputError, match="scale must be 2, 3, 4 or 8; got 5"):
        ESSAformer(scale=5)
    with pytest.raises(InputError, match="ESSAformer has scale 4"):
        ESSAformer(scale=4, bands=3, dim=4).build(cubes, rng=seeded(0))
