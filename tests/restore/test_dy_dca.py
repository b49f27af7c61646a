"""Dy-DCA: hard cells split, paths by size, memory laid out without two living things in one place."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from unweave import seeded
from unweave.embedded.clips import panned
from unweave.errors import InputError
from unweave.restore import DyDCA
from unweave.restore.delivery import Backbone, Source, Upscaler
from unweave.restore.delivery.patches import scores, smaller
from unweave.restore.delivery.upscale import on_torch
from unweave.restore.dy_dca import compiled, dy_dca

HEAVY = Backbone(name="wdsr", blocks=2, width=4)
HOW = DyDCA(cell=6, steps=10, backbone=HEAVY)


@pytest.fixture(scope="module")
def source() -> Source:
    high = panned(6, 48, 64).frames
    return Source(smaller(high, 2), high, 2)


def test_the_hardest_coarse_cells_are_split(source) -> None:
    labels = HOW.split(source, seeded(0))
    assert labels.shape == (6, 4, 6)
    coarse = labels[:, ::2, ::2]
    assert torch.equal(labels, coarse.repeat_interleave(2, 1).repeat_interleave(2, 2))
    assert int((coarse == 0).sum()) == 18
    fine = scores(source.low, source.high, source.grid(6), 2, "bicubic")
    error = torch.pow(10, -fine / 10).view(6, 2, 2, 3, 2).mean((2, 4))
    assert error[coarse == 0].min() >= error[coarse == 1].max()
    drawn = replace(HOW, random=True).split(source, seeded(0))
    assert int((drawn == 0).sum()) == int((labels == 0).sum())
    assert not torch.equal(drawn, labels)
    three = replace(HOW, cell=3, levels=3).split(source, seeded(0))
    assert set(three.unique().tolist()) == {0, 1, 2}


def test_each_path_is_trained_on_its_own_size_and_steps_follow_its_share(source, monkeypatch) -> None:
    seen = []
    real = dy_dca.overfit_
    monkeypatch.setattr(
        dy_dca,
        "overfit_",
        lambda net, patches, **how: (seen.append((patches, how["steps"])), real(net, patches, **how))[1],
    )
    made = HOW.overfit(source, rng=seeded(0))
    assert [(p.size, len(p), n) for p, n in seen] == [((6, 6), 72, 8), ((12, 12), 18, 2)]
    assert [b.blocks for b in made.backbones] == [2, 1]
    assert made.figures["share of patches on path 1"] == 0.8
    assert HOW.weights(6, 25, 2) == sum(p.numel() for net in made.nets for p in net.parameters())
    run = [on_torch(net) for net in made.nets]
    out = Upscaler(source.grid(6), 2, run, made.spans)(source.low[0], made.labels[0])
    assert out.shape == (3, 48, 64)
    i, j = (made.labels[0, ::2, ::2] == 1).nonzero()[0].tolist()
    if (i + 1) * 12 <= 24 and (j + 1) * 12 <= 32:
        with torch.no_grad():
            alone = made.nets[1](source.low[:1, :, i * 12 : i * 12 + 12, j * 12 : j * 12 + 12].float() / 255)
        wanted = (alone[0] * 255).round().clamp(0, 255).byte()
        assert (out[:, i * 24 : i * 24 + 24, j * 24 : j * 24 + 24].int() - wanted.int()).abs().max() <= 1


def test_blocks_that_reach_past_the_frame_are_whole(source) -> None:
    """Cells of 8 pixels: three rows of them, so that the lower blocks have one row of their own."""
    made = replace(HOW, cell=8, halo=1).overfit(source, rng=seeded(0))
    assert made.labels.shape == (6, 3, 4)
    run = [on_torch(net) for net in made.nets]
    assert Upscaler(source.grid(8), 2, run, made.spans, 1)(source.low[0], made.labels[0]).shape == (3, 48, 64)


@pytest.mark.slow  # torch.export
def test_memory_is_planned_without_overlap_and_the_program_answers_as_the_path() -> None:
    net, x = HEAVY.build(2).eval(), torch.rand(3, 3, 8, 8, generator=seeded(0))
    from unweave.restore.delivery.backbones import folded

    program, plan = compiled(folded(net), x)
    with torch.no_grad():
        assert torch.allclose(program(x), net(x), atol=1e-5)
    held = list(plan.offsets.values())
    for n, (at, size, first, last) in enumerate(held):
        for other, bytes_, a, b in held[n + 1 :]:
            together = a <= last and first <= b
            assert not together or at + size <= other or other + bytes_ <= at
    assert plan.live <= plan.peak <= 0.65 * plan.naive
    assert plan.naive == sum(size for _, size, _, _ in held)
    widest = 4 * 3 * 16 * 8 * 8
    assert plan.live >= widest + 4 * 3 * 4 * 8 * 8, "the wide layer and the block's input live together"


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"threshold": 99.0}, "all of the"),
        ({"threshold": 1.0}, "none of the"),
        ({"cell": 30}, "levels need at least 2"),
    ],
)
def test_splits_that_leave_a_path_idle_are_refused(source, how, says) -> None:
    with pytest.raises(InputError, match=says):
        replace(HOW, **how).split(source, seeded(0))


def test_settings_that_make_no_sense_together_are_refused(source) -> None:
    for bad, says in (
        (lambda: DyDCA(levels=1), "at least 2"),
        (lambda: DyDCA(threshold=40.0, share=0.2), "beside threshold"),
        (lambda: DyDCA(threshold=40.0, random=True), "leave threshold out"),
        (lambda: DyDCA(steps=5, epochs=2), "beside steps"),
    ):
        with pytest.raises(InputError, match=says):
            bad()
    plain = replace(source, low=torch.zeros_like(source.low), high=torch.zeros_like(source.high))
    with pytest.raises(InputError, match="nothing to split"):
        HOW.split(plain, seeded(0))
