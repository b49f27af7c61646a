"""SuperInpaint: holes say nothing, neighbours are weighed by the opposite area, parts can be left out, bad masks."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import TensorDataset

from unweave import Data, seeded
from unweave.errors import InputError
from unweave.random import global_seed
from unweave.restore import SuperInpaint, SuperInpaintNet, holes, place_loss
from unweave.restore.superinpaint.network import smoothed
from unweave.tasks import Restore

TINY = {"channels": 1, "features": 4, "blocks": 1, "hidden": 8, "layers": 1, "pool": 2}


def tiny(**more) -> SuperInpaintNet:
    with global_seed(0):
        net = SuperInpaintNet(**{**TINY, **more})
    torch.nn.init.constant_(net.decoder[-1].bias, 0.5)  # well inside [0, 1]
    return net


def seen(high: int = 6, wide: int = 5, n: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.rand(n, 1, high, wide, generator=seeded(1))
    mask = torch.zeros(n, 1, high, wide)
    mask[:, :, 2:4, 1:4] = 1
    return x, mask


def test_what_lies_in_a_hole_is_never_read() -> None:
    net, (x, mask) = tiny(), seen()
    other = torch.where(mask > 0, torch.rand_like(x), x)
    assert torch.equal(net.restore(x, mask=mask), net.restore(other, mask=mask))
    assert torch.equal(net(torch.cat([x, mask], 1)), net(torch.cat([other, mask], 1)))
    changed = x.clone()
    changed[0, 0, 5, 4] = 1 - changed[0, 0, 5, 4]
    assert not torch.equal(net.restore(x, mask=mask), net.restore(changed, mask=mask))


def test_a_pixel_borrows_from_known_cells_by_their_known_share() -> None:
    net = tiny().double()
    _, mask = seen(4, 4)
    mask = mask.double()
    y = torch.rand(1, 4, 4, 4, dtype=torch.float64, generator=seeded(2))
    q, k, v = net.qkv(y).chunk(3, 1)
    out = torch.zeros_like(y)
    for i in range(4):
        for j in range(4):
            scores, values = [], []
            for a in (0, 2):
                for b in (0, 2):
                    keep = 1 - mask[0, 0, a : a + 2, b : b + 2]
                    share = keep.mean()
                    key, value = (
                        (z[0, :, a : a + 2, b : b + 2] * keep).sum((1, 2)) / keep.sum().clamp_min(1e-6)
                        for z in (k, v)
                    )
                    scores.append((q[0, :, i, j] @ key) / 2 + (share + 1e-6).log())
                    values.append(value)
            out[0, :, i, j] = torch.stack(scores).softmax(0) @ torch.stack(values)
    torch.testing.assert_close(net._borrowed(y, mask), out, atol=1e-5, rtol=1e-4)


def test_the_filter_is_each_pixels_own_mean() -> None:
    x = torch.rand(1, 2, 3, 4, dtype=torch.float64, generator=seeded(0))
    weights = torch.rand(1, 9, 3, 4, dtype=torch.float64, generator=seeded(1))
    padded = F.pad(x, (1, 1, 1, 1), mode="replicate")
    want = torch.zeros_like(x)
    for i in range(3):
        for j in range(4):
            near = padded[0, :, i : i + 3, j : j + 3].flatten(1)
            want[0, :, i, j] = near @ weights[0, :, i, j]
    torch.testing.assert_close(smoothed(x, weights), want, atol=1e-12, rtol=0)
    flat = torch.full((1, 2, 3, 3), 0.7)
    torch.testing.assert_close(smoothed(flat, torch.full((1, 9, 3, 3), 1 / 9)), flat)


@pytest.mark.parametrize("size", [(12, 10), (7, 13)])
def test_a_place_is_the_mean_of_four_neighbours_weighed_by_map_and_opposite_area(size) -> None:
    net = tiny().double()
    x, mask = (t.double() for t in seen())
    both = torch.cat([x * (1 - mask), mask], 1)
    with torch.no_grad():
        (cells, weights), made = net.cells(both), net.at(both, size)
    for p in range(0, size[0] * size[1], 7):
        py, px = ((p // size[1] + 0.5) * 6 / size[0] - 0.5, (p % size[1] + 0.5) * 5 / size[1] - 0.5)
        colours, shares = [], []
        for dy in (0, 1):
            for dx in (0, 1):
                cy, cx = (int(torch.tensor(v).floor()) + d for v, d in ((py, dy), (px, dx)))
                area = (1 - abs(py - cy)) * (1 - abs(px - cx))
                iy, ix = min(max(cy, 0), 5), min(max(cx, 0), 4)
                told = torch.tensor(
                    [2 * (py - iy), 2 * (px - ix), 12 / size[0], 10 / size[1]], dtype=torch.float64
                )
                colours.append(net.decoder(torch.cat([cells[0, :, iy, ix], told])))
                shares.append(float(weights[0, 0, iy, ix]) * area + 1e-6)
        want = sum(c * s for c, s in zip(colours, shares, strict=True)) / sum(shares)
        torch.testing.assert_close(made[0, p], want, atol=1e-9, rtol=0)


def test_parts_can_be_left_out_and_the_scale_is_any() -> None:
    x, mask = seen()
    whole = sum(p.numel() for p in tiny().parameters())
    for part in ("detail", "attend", "weigh"):
        net = tiny(**{part: False})
        assert sum(p.numel() for p in net.parameters()) < whole
        assert net.restore(x, mask=mask, scale=2.7).shape == (1, 1, 16, 14)
    net = tiny(combine="concat")
    assert net.restore(x, mask=mask, scale=1).shape == x.shape
    large = F.interpolate(x, (12, 10), mode="bicubic", align_corners=False).clamp(0, 1)
    kept = net.restore(x, mask=mask, known="bicubic")
    hole = F.interpolate(mask, (12, 10), mode="bilinear", align_corners=False) > 0
    assert torch.equal(kept[~hole], large[~hole])
    assert torch.equal(kept[hole], net.restore(x, mask=mask)[hole])


def test_holes_cover_what_is_asked_and_follow_the_seed() -> None:
    drawn = holes(12, 24, 20, rng=seeded(0), least=0.1, most=0.5)
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    shares = drawn.flatten(1).mean(1)
    assert float(shares.min()) >= 0.1
    assert float(shares.max()) <= 0.5 + 1 / 8
    assert float(shares.max() - shares.min()) > 0.1
    assert torch.equal(drawn, holes(12, 24, 20, rng=seeded(0), least=0.1, most=0.5))
    with pytest.raises(InputError, match="between 0 and 1, least first; got 0.6 and 0.2"):
        holes(1, 4, 4, rng=seeded(0), least=0.6, most=0.2)


def test_the_loss_weighs_places_in_holes() -> None:
    net, (x, mask) = tiny(), seen()
    both, wanted = torch.cat([x, mask], 1), torch.rand(1, 1, 12, 10, generator=seeded(3))
    apart = (net(both) - wanted).abs()[0, 0]
    hole = mask[0, 0].repeat_interleave(2, 0).repeat_interleave(2, 1) > 0
    for weight in (1.0, 5.0, 0.0):
        want = (weight * apart[hole].sum() + apart[~hole].sum()) / (weight * hole.sum() + (~hole).sum())
        torch.testing.assert_close(place_loss(net, both, wanted, 0, weight), want)


@pytest.fixture(scope="module")
def pairs() -> Data[Restore]:
    rng = seeded(0)
    clean = F.interpolate(torch.rand(8, 1, 3, 3, generator=rng), (16, 16), mode="bicubic").clamp(0, 1)
    mask = holes(8, 8, 8, rng=rng, least=0.2, most=0.3)
    small = F.avg_pool2d(clean, 2) * (1 - mask)
    return Data(TensorDataset(torch.cat([small, mask], 1), clean), Restore(), 4)


def test_training_fills_holes(pairs) -> None:
    method = SuperInpaint(**{**TINY, "features": 8, "hidden": 16}, queries=120, lr=1e-2, epochs=20)
    net = method.build(pairs, rng=seeded(0))
    both, clean = pairs.examples.tensors
    hole = F.interpolate(both[:, 1:], scale_factor=2, mode="nearest") > 0
    made = net.restore(both[:, :1], mask=both[:, 1:])
    grey = float(clean.mean())
    assert float((made - clean)[hole].square().mean()) < 0.6 * float((clean[hole] - grey).square().mean())


def test_bad_input_is_named(pairs) -> None:
    net, (x, mask) = tiny(), seen()
    for call, told in (
        (lambda: net.restore(x, mask=0.5 * mask), "zeros and ones"),
        (lambda: net.restore(x, mask=mask[..., :3]), r"needs a mask \(1, 1, 6, 5\)"),
        (lambda: net.restore(x, mask=torch.ones_like(mask)), "masked as a whole"),
        (
            lambda: net.restore(x, mask=(torch.arange(30).view(1, 1, 6, 5) > 0).float()),
            "covers 97 %.*inverted",
        ),
        (lambda: net.restore(x, mask=mask, scale=0.5), "at least 1; got 0.5"),
        (lambda: net.restore(2 * x + 1, mask=mask), r"values in \[0, 1\]"),
        (lambda: SuperInpaint(**TINY, scale=3.0).build(pairs, rng=seeded(0)), "SuperInpaint has scale 3"),
        (lambda: SuperInpaint(**TINY, queries=257).build(pairs, rng=seeded(0)), "at most the 256 places"),
        (
            lambda: SuperInpaint(**{**TINY, "channels": 3}).build(pairs, rng=seeded(0)),
            "reads 4 channels; got 2",
        ),
    ):
        with pytest.raises(InputError, match=told):
            call()
