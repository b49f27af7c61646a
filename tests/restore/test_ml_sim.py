"""ML-SIM: optics and fringes, the classical way with true parameters, the network, and bad stacks."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.utils.data import TensorDataset

from unweave import Data, seeded
from unweave.errors import InputError
from unweave.restore import (
    MLSIM,
    MLSIMNet,
    Simulator,
    classical,
    fringes,
    ring_correlation,
    transfer,
    widefield,
    wiener,
)
from unweave.tasks import Restore

STEADY = {"psf_error": 0.0, "fringes_error": 0.0, "modulation_error": 0.0, "turn": 0.0, "angle_error": 0.0, "phase_error": 0.0}  # fmt: skip


def speckles(side: int = 64, seed: int = 0) -> torch.Tensor:
    """Grey points and blocks: power at every frequency."""
    rng = seeded(seed)
    points = (torch.rand(side, side, generator=rng) < 0.05).double() * torch.rand(side, side, generator=rng)
    return (
        points
        + 0.2
        * torch.rand(side // 8, side // 8, generator=rng).repeat_interleave(8, 0).repeat_interleave(8, 1)
    ).clamp(0, 1)


def test_the_lens_ends_at_its_cutoff() -> None:
    seen = transfer(0.9, 512)
    assert float(seen[0, 0]) == 1
    cutoff = 0.9 * 512 / math.pi
    assert cutoff == pytest.approx(146.7, abs=0.05)
    assert float(seen[0, 140]) > 1e-3
    assert float(seen[0, 152:256].max()) < 2e-3
    half = (
        2 / math.pi * (math.acos(0.5) - 0.5 * math.sqrt(0.75))
    )  # the textbook's transfer function, half way
    assert float(seen[0, 73]) == pytest.approx(half, abs=0.02)


def test_a_frame_is_the_lit_picture_through_the_lens() -> None:
    scope = Simulator(**STEADY, noise=0.0).draw(seeded(0))
    x = speckles(16)
    frames = scope.frames(x, seeded(0))
    k2 = 0.85 * 0.9 * 16 / math.pi
    lens = transfer(0.9, 16)
    for i in range(3):
        for j in range(3):
            lit = torch.zeros(16, 16, dtype=torch.float64)
            for r in range(16):
                for c in range(16):
                    wave = math.cos(i * math.pi / 3) * (c - 8) + math.sin(i * math.pi / 3) * (r - 8)
                    light = 0.5 + 0.4 * math.cos(2 * math.pi * k2 / 16 * wave + 2 * math.pi * j / 3)
                    lit[r, c] = x[r, c] * light
            want = torch.fft.ifft2(torch.fft.fft2(lit) * lens).real
            torch.testing.assert_close(frames[3 * i + j], want, atol=1e-9, rtol=0)


def test_the_frames_of_an_angle_sum_to_widefield() -> None:
    scope = Simulator(**STEADY, noise=0.0).draw(seeded(0))
    x = speckles()
    frames = scope.frames(x, seeded(0))
    blurred = torch.fft.ifft2(torch.fft.fft2(x) * transfer(0.9, 64)).real
    torch.testing.assert_close(widefield(frames), 0.5 * blurred, atol=1e-9, rtol=0)


def test_true_parameters_recover_what_the_lens_cannot_pass_and_wrong_phases_do_not() -> None:
    scope = Simulator(**STEADY, noise=0.02).draw(seeded(0))
    x = speckles()
    frames = scope.frames(x, seeded(0))
    cutoff = scope.cutoff(64)
    ring = (cutoff, cutoff * 1.5)
    good = classical(frames, scope, regular=0.01)
    assert ring_correlation(good, x, *ring) > 0.6
    assert abs(ring_correlation(widefield(frames), x, *ring)) < 0.3
    off = replace(
        scope,
        phases=tuple(
            tuple(p + e for p, e in zip(each, (0.6, -0.5, 0.3), strict=True)) for each in scope.phases
        ),
    )
    ideal = scope.ideal(x)

    def error(y: torch.Tensor) -> float:
        return float((y - ideal).square().mean())

    assert error(good) < error(classical(frames, off, regular=0.01)) / 2
    assert error(good) < error(wiener(2 * widefield(frames), 0.9)) / 2
    with pytest.raises(InputError, match="are 9 frames; got 6"):
        classical(frames[:6], scope)


def test_what_is_drawn_stays_in_its_range_and_follows_the_seed() -> None:
    how = Simulator(noise=0.05)
    drawn = [how.draw(seeded(s)) for s in range(30)]
    assert all(
        0.85 <= d.psf <= 0.95 and 0.75 <= d.reach <= 0.95 and 0.65 <= d.modulation <= 0.95 for d in drawn
    )
    assert max(d.psf for d in drawn) - min(d.psf for d in drawn) > 0.05
    x = speckles(16).float()[None, None].expand(2, -1, -1, -1)
    a, b, c = (how.simulate(x, rng=seeded(s)) for s in (0, 0, 1))
    assert torch.equal(a[0], b[0])
    assert not torch.equal(a[0], c[0])
    assert not torch.equal(a[0][0], a[0][1])
    stack, target = a
    assert stack.shape == (2, 9, 16, 16)
    assert target.shape == (2, 1, 16, 16)
    assert all(float(part.min()) == 0 and float(part.max()) == 1 for part in (stack[0], target[0]))
    assert torch.equal(
        Simulator(sharp=True).simulate(x, rng=seeded(0))[1][0],
        (x[0] - x[0].min()) / (x[0].max() - x[0].min()),
    )


def test_frames_are_scaled_alone_or_together_and_constant_ones_are_zero() -> None:
    stack = torch.stack(
        [torch.full((4, 4), 3.0), torch.arange(16.0).view(4, 4), 2 * torch.arange(16.0).view(4, 4)]
    )[None].repeat(1, 3, 1, 1)
    alone, together = (
        MLSIMNet(groups=1, blocks=1, features=4, scaling=s).ready(stack) for s in ("frame", "stack")
    )
    assert alone[0, 0].abs().max() == 0
    assert torch.equal(alone[0, 1], alone[0, 2])
    torch.testing.assert_close(together[0, 2], 2 * together[0, 1])
    assert float(together.max()) == 1


def test_stacks_of_one_frame_and_shuffled_stacks_have_no_fringes() -> None:
    scope = Simulator(**STEADY, noise=0.02).draw(seeded(0))
    stack = scope.frames(speckles(), seeded(1))[None]
    assert all(fringes(stack, i, 3) for i in range(3))
    flat = stack[:, :1].expand(-1, 9, -1, -1) + 0.01 * torch.randn(1, 9, 64, 64, generator=seeded(2))
    assert not any(fringes(flat, i, 3) for i in range(3))
    with pytest.warns(UserWarning, match="no fringes are found at the angles 0, 1, 2"):
        MLSIMNet(groups=1, blocks=1, features=4).restore(flat.float())


def test_training_beats_widefield() -> None:
    x = torch.stack([speckles(24, s).float() for s in range(12)])[:, None]
    data = Data(
        TensorDataset(*Simulator(noise=0.02, phase_error=0.1).simulate(x, rng=seeded(0))),
        Restore(loss="l2"),
        4,
    )
    net = MLSIM(groups=1, blocks=1, features=8, lr=5e-3, epochs=20).build(data, rng=seeded(0))
    stack, target = data.examples.tensors
    mean = stack.mean(1, keepdim=True)
    low, high = mean.amin((2, 3), keepdim=True), mean.amax((2, 3), keepdim=True)
    wide = ((mean - low) / (high - low) - target).square().mean()
    assert float((net.restore(stack) - target).square().mean()) < 0.5 * float(wide)
    assert net.restore(stack[:1], tile=16).shape == (1, 1, 24, 24)


def test_bad_input_is_named() -> None:
    net = MLSIMNet(groups=1, blocks=1, features=4)
    data = Data(TensorDataset(torch.rand(2, 9, 8, 8), torch.rand(2, 1, 16, 16)), Restore(), 2)
    for call, told in (
        (lambda: Simulator(fringes=1.1), "cannot pass the lens"),
        (lambda: Simulator(fringes=0.9, fringes_error=0.2), "fringes up to 1.1 of the cut-off"),
        (lambda: Simulator(phases=2), "at least 3, to tell the three orders apart"),
        (lambda: Simulator().simulate(torch.rand(1, 3, 8, 8), rng=seeded(0)), "square grey pictures"),
        (lambda: net.restore(torch.rand(1, 6, 8, 8)), "3 angles of 3 phases, 9 frames; got 6"),
        (lambda: net.restore(torch.full((1, 9, 8, 8), torch.nan)), "NaN"),
        (lambda: MLSIM().build(data, rng=seeded(0)), "a picture on the grid of its frames"),
    ):
        with pytest.raises(InputError, match=told):
            call()
    assert Simulator(fringes=1.1, beyond=True).fringes == 1.1
