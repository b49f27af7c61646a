"""Fast FullSubNet: masks, mel bands, causality, the stream beside the whole pass, and counted multiplications."""

from __future__ import annotations

import math

import pytest
import torch
from torch.utils.data import TensorDataset

from unweave import Data, seeded
from unweave.errors import InputError
from unweave.random import global_seed
from unweave.restore import (
    FastFullSubNet,
    FastFullSubNetNet,
    Stream,
    compressed,
    expanded,
    mel_bank,
    ratio_mask,
)
from unweave.tasks import Restore

TINY = {"rate": 1000, "window": 64, "mels": 8, "full": (6, 5), "sub": 4, "merge": 6, "neighbours": 2}


def tiny(**more) -> FastFullSubNetNet:
    with global_seed(0):
        return FastFullSubNetNet(**{**TINY, **more})


def heard(frames: int, n: int = 2) -> torch.Tensor:
    return torch.rand(n, 33, frames, generator=seeded(1))


def test_a_mask_is_the_ratio_and_comes_back_through_its_compression() -> None:
    rng = seeded(0)
    noisy, clean = (torch.randn(3, 4, dtype=torch.complex64, generator=rng) for _ in range(2))
    mask = ratio_mask(noisy, clean)
    torch.testing.assert_close(mask * noisy, clean, atol=1e-4, rtol=1e-4)
    small = compressed(mask)
    m = torch.view_as_real(mask).double()
    wanted = 10 * (1 - torch.exp(-0.1 * m)) / (1 + torch.exp(-0.1 * m))
    torch.testing.assert_close(small.double(), wanted, atol=1e-5, rtol=0)
    torch.testing.assert_close(expanded(small), mask, atol=1e-3, rtol=1e-3)
    assert (
        ratio_mask(torch.zeros(2, dtype=torch.complex64), torch.ones(2, dtype=torch.complex64)).abs().max()
        == 0
    )
    low = compressed(torch.complex(torch.tensor([-1e6]), torch.tensor([0.0])))[0, 0]
    assert float(low) == pytest.approx(10 * (1 - math.exp(10)) / (1 + math.exp(10)))
    assert float(expanded(torch.tensor([[20.0, 0.0]])).real) == pytest.approx(10 * math.log(19.9 / 0.1))


def test_mel_bands_are_htk_triangles_of_height_one() -> None:
    bank = mel_bank(257, 64, 16000).double()
    hz = torch.linspace(0, 8000, 257, dtype=torch.float64)
    mel = lambda f: 2595 * math.log10(1 + f / 700)  # noqa: E731
    edges = [700 * (10 ** (mel(8000) * i / 65 / 2595) - 1) for i in range(66)]
    wanted = torch.zeros(257, 64, dtype=torch.float64)
    for b in range(64):
        left, peak, right = edges[b : b + 3]
        for f in range(257):
            x = float(hz[f])
            if left < x <= peak:
                wanted[f, b] = (x - left) / (peak - left)
            elif peak < x < right:
                wanted[f, b] = (right - x) / (right - peak)
    torch.testing.assert_close(bank, wanted, atol=1e-6, rtol=0)
    with pytest.raises(InputError, match="mel bands hold none of 33 bins"):
        mel_bank(33, 64, 16000)


@pytest.mark.parametrize("every", [1, 2, 3])
@pytest.mark.parametrize("ahead", [0, 2])
def test_a_stream_is_the_whole_pass(every, ahead) -> None:
    net, x = tiny(every=every, ahead=ahead), heard(9)
    stream = Stream(net, 2)
    masks = [stream.push(x[:, :, t]) for t in range(9)]
    assert [m is None for m in masks] == [t < ahead for t in range(9)]
    told = torch.stack([*(m for m in masks if m is not None), *stream.close()], 2)
    with torch.no_grad():
        torch.testing.assert_close(told, net(x), atol=1e-6, rtol=1e-5)


def test_later_frames_change_nothing_with_the_cumulative_norm_alone() -> None:
    x, changed = heard(12), heard(12).clone()
    changed[:, :, 8:] = 5.0
    with torch.no_grad():
        net = tiny()
        assert torch.equal(net(x)[:, :, :6], net(changed)[:, :, :6])  # frame t hears t + 2
        assert not torch.equal(net(x)[:, :, 6], net(changed)[:, :, 6])
        offline = tiny(norm="offline")
        assert not torch.equal(offline(x)[:, :, :6], offline(changed)[:, :, :6])
    with pytest.raises(InputError, match="a stream needs norm='cumulative'"):
        Stream(offline)


def test_blocks_are_frame_zero_then_means_and_serve_from_their_end() -> None:
    net, seen = tiny(every=2, ahead=0), []
    hook = net.sub.register_forward_hook(lambda m, args, out: seen.append((args[0], out[0])))
    x = heard(6, n=1)
    with torch.no_grad():
        net(x)
        hook.remove()
        mel = x.permute(2, 0, 1) @ net.bank
        wide = torch.nn.functional.pad(mel, (2, 2), mode="reflect")
        near = torch.stack([wide[:, 0, i : i + 8] for i in range(5)], 2)  # frames, bands, neighbours
    blocks = seen[0][0].view(4, 8, 6)
    raw = [near[0], near[1:3].mean(0), near[3:5].mean(0), near[5:].mean(0)]
    for j, block in enumerate(blocks):
        shares = block[:, :5] / raw[j]
        torch.testing.assert_close(shares, shares[0, 0].expand_as(shares), atol=1e-4, rtol=1e-3)


def test_sizes_and_multiplications_are_the_cards() -> None:
    net = FastFullSubNetNet()
    assert net.macs_a_second() / 62.5 == pytest.approx(62.3e6, rel=0.002)
    assert net.macs_a_second() == pytest.approx(3.89e9, rel=0.002)
    assert FastFullSubNetNet(every=1).macs_a_second() == pytest.approx((62.3e6 + 57.2e6) * 62.5, rel=0.002)
    assert sum(p.numel() for p in net.parameters()) == pytest.approx(6.84e6, rel=0.005)


@pytest.mark.parametrize("samples", [64, 65, 200])
def test_short_and_silent_sounds_keep_their_length(samples) -> None:
    net = tiny()
    sound = torch.zeros(1, samples)
    assert net.restore(sound).shape == sound.shape
    assert torch.isfinite(net.restore(sound)).all()


def test_a_sound_is_restored_by_the_mask_times_its_spectrum() -> None:
    net, noisy = tiny(), torch.randn(2, 300, generator=seeded(3))
    window = torch.hann_window(64)
    spectrum = torch.stft(noisy, 64, 32, window=window, return_complex=True)
    with torch.no_grad():
        mask = net(spectrum.abs())  # compressed: 10 tanh-like, undone by its logarithm
    bounded = mask.clamp(-9.9, 9.9)
    told = torch.complex(*(-10 * torch.log((10 - bounded) / (10 + bounded))).unbind(-1))
    due = torch.istft(told * spectrum, 64, 32, window=window, length=300)
    torch.testing.assert_close(net.restore(noisy), due, rtol=1e-4, atol=1e-5)


def test_training_lowers_the_noise_and_not_by_silence() -> None:
    from unweave.restore import si_sdr

    rng = seeded(0)
    t = torch.arange(600) / 1000
    clean = torch.stack([torch.sin(2 * torch.pi * (60 + 15 * k) * t) for k in range(8)]) * 0.5
    noisy = clean + 0.3 * torch.randn(clean.shape, generator=rng)
    data = Data(TensorDataset(noisy, clean), Restore(loss="l2"), 4)
    method = FastFullSubNet(**{**TINY, "full": (24, 16), "sub": 12, "merge": 32}, lr=1e-2, epochs=20)
    net = method.build(data, rng=seeded(0))
    gained = si_sdr(net.restore(noisy), clean) - si_sdr(noisy, clean)
    assert float(gained.mean()) > 3


def test_bad_sounds_are_named() -> None:
    net = tiny()
    for sound, told in (
        (torch.rand(2, 2, 100), r"mono sounds \[n, samples\]"),
        (torch.rand(1, 63), "at least 64 samples"),
        (torch.full((1, 100), torch.nan), "NaN"),
        (torch.ones(1, 100, dtype=torch.int16), "floating point"),
    ):
        with pytest.raises(InputError, match=told):
            net.restore(sound)
    with pytest.raises(InputError, match=r"magnitudes \[n, 33, frames\] with at least one frame"):
        net(torch.rand(1, 33, 0))
    with pytest.raises(InputError, match="more mels than neighbours"):
        FastFullSubNet(**{**TINY, "neighbours": 8}).initial(seeded(0))
    data = Data(TensorDataset(torch.rand(2, 50), torch.rand(2, 50)), Restore(), 2)
    with pytest.raises(InputError, match="at least 64 samples"):
        FastFullSubNet(**TINY).build(data, rng=seeded(0))
