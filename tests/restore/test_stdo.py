"""STDO: groups by difficulty, networks on their own group alone, JSTDO's shares; grouping beats chance."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from unweave import seeded
from unweave.embedded.clips import panned
from unweave.errors import InputError
from unweave.restore import STDO
from unweave.restore.delivery import Backbone, Source
from unweave.restore.delivery.patches import scores, smaller

TINY = Backbone(name="espcn", blocks=1, width=4, residual=True)
HOW = STDO(k=2, cell=8, steps=4, lr=1e-3, backbone=TINY)


@pytest.fixture(scope="module")
def source() -> Source:
    high = panned(6, 48, 64).frames
    return Source(smaller(high, 2), high, 2)


def test_scores_are_each_cells_own_psnr(source) -> None:
    found = scores(source.low, source.high, source.grid(8), 2, "bicubic")
    up = torch.nn.functional.interpolate(source.low.float() / 255, scale_factor=2, mode="bicubic")
    error = ((up * 255).round().clamp(0, 255).double() - source.high.double()).div(255).square()
    assert found[2, 1, 3] == pytest.approx(
        float(-10 * torch.log10(error[2, :, 16:32, 48:64].mean())), abs=1e-2
    )
    detail = scores(source.low, source.high, source.grid(8), 2, "gradient")
    assert torch.corrcoef(torch.stack([found.flatten(), detail.flatten()]))[0, 1] > 0.5


def test_hardest_cells_go_to_the_first_network_and_each_sees_its_own_alone(source, monkeypatch) -> None:
    seen = []
    from unweave.restore import stdo

    real = stdo.overfit_
    monkeypatch.setattr(
        stdo,
        "overfit_",
        lambda net, patches, **how: (seen.append((patches, how)), real(net, patches, **how))[1],
    )
    made = HOW.overfit(source, rng=seeded(0))
    values = scores(source.low, source.high, source.grid(8), 2, "bicubic")
    assert values[made.labels == 0].max() <= values[made.labels == 1].min()
    assert [len(p) for p, _ in seen] == [36, 36]
    assert [how["steps"] for _, how in seen] == [2, 2]
    for c, (patches, _) in enumerate(seen):
        assert all(made.labels[t, i // 8, j // 8] == c for t, i, j in patches.places.tolist())
    assert HOW.weights(6, 25, 2) == 2 * sum(p.numel() for p in made.nets[0].parameters())


def test_jstdo_trains_one_network_on_falling_shares(source, monkeypatch) -> None:
    from unweave.restore import stdo

    seen = []
    monkeypatch.setattr(stdo, "overfit_", lambda net, patches, **_: seen.append(patches))
    how = STDO.jstdo(k=3, cell=8, steps=4, lr=1e-3, backbone=TINY)
    made = how.overfit(source, rng=seeded(0))
    values = scores(source.low, source.high, source.grid(8), 2, "bicubic").flatten()
    ranks = values.argsort().argsort()
    at = [int(ranks[t * 12 + i // 8 * 4 + j // 8]) for t, i, j in seen[0].places.tolist()]
    counts = [sum(24 * c <= r < 24 * (c + 1) for r in at) for c in range(3)]
    assert counts == [24, 12, 0]
    assert len(made.nets) == 1
    assert not made.labels.any()
    assert how.weights(6, 25, 2) * 2 == HOW.weights(6, 25, 2)
    replace(how, fractions=(0.0, 0.25, 1.0)).overfit(source, rng=seeded(0))
    assert len(seen[1]) == 6 + 24


def test_a_halo_gives_a_network_what_lies_around_its_patch(source) -> None:
    patches = source.patches(source.grid(8), torch.ones(6, 3, 4, dtype=torch.bool), halo=2)
    low, high, frame = patches.read(torch.tensor([5]))  # frame 0, row 1, column 1
    assert low.shape == (1, 3, 12, 12)
    assert torch.equal((low[0] * 255).round().byte(), source.low[0, :, 6:18, 6:18])
    assert torch.equal((high[0] * 255).round().byte(), source.high[0, :, 16:32, 16:32])
    assert frame.tolist() == [0]


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (lambda: STDO(split="none", k=3), "would do nothing"),
        (lambda: STDO(split="time", scorer="gradient"), "would do nothing"),
        (lambda: STDO(steps=3, epochs=4), "beside steps"),
        (lambda: STDO(fractions=(1.0, 0.0)), "without joint"),
        (lambda: STDO.jstdo(k=1), "k of at least 2"),
        (lambda: STDO.jstdo(fractions=(1.0,)), "4 shares"),
    ],
)
def test_settings_that_make_no_sense_together_are_refused(bad, says) -> None:
    with pytest.raises(InputError, match=says):
        bad()


def test_what_a_clip_cannot_give_is_refused(source) -> None:
    with pytest.raises(InputError, match="cannot be split into k=99"):
        replace(HOW, k=99).overfit(source, rng=seeded(0))
    with pytest.raises(InputError, match="needs a general network"):
        replace(HOW, scorer="general").overfit(source, rng=seeded(0))
    plain = replace(source, low=torch.zeros_like(source.low), high=torch.zeros_like(source.high))
    with pytest.raises(InputError, match="nothing to split"):
        HOW.overfit(plain, rng=seeded(0))
