"""The network of Fast FullSubNet, frame by frame or a whole clip at once: the same numbers."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import Module

from ...errors import InputError
from ...settings import Count, Whole, checked
from .masks import expanded, mel_bank

_EPS = 1e-5


class FastFullSubNetNet(Module):
    """Noisy magnitudes [n, bins, frames] -> compressed complex masks [n, bins, frames, 2].

    Args:
        rate: of the sound, in Hz.
        window: samples of a Hann window; half of it is the hop.
        mels: mel bands.
        full: hidden sizes of the two full-band LSTM layers.
        sub: hidden size of both sub-band layers.
        merge: hidden size of both layers that make the mask.
        neighbours: mel bands on either side that a sub-band reads.
        every: s, frames of one sub-band step.
        ahead: frames it looks ahead.
        norm: "cumulative" divides by the mean so far and is causal; "offline" by the whole clip's.
    """

    method: ClassVar[str] = "fast-fullsubnet"
    reads: ClassVar[str] = "sound"
    bank: Tensor
    hann: Tensor

    @checked
    def __init__(
        self,
        *,
        rate: Count = 16000,
        window: Count = 512,
        mels: Count = 64,
        full: tuple[Count, Count] | list[Count] = (384, 257),
        sub: Count = 384,
        merge: Count = 512,
        neighbours: Whole = 5,
        every: Count = 2,
        ahead: Whole = 2,
        norm: Literal["offline", "cumulative"] = "cumulative",
    ) -> None:
        super().__init__()
        if window % 2 or mels <= neighbours:
            raise InputError(
                f"FastFullSubNet needs an even window and more mels than neighbours (they are reflected at the ends); "
                f"got {window}, {mels} and {neighbours}."
            )
        first, second = full
        self.made: dict[str, Any] = {
            "rate": rate, "window": window, "mels": mels, "full": [first, second], "sub": sub, "merge": merge,
            "neighbours": neighbours, "every": every, "ahead": ahead, "norm": norm,
        }  # fmt: skip
        self.rate, self.window, self.every, self.ahead, self.norm = rate, window, every, ahead, norm
        self.bins, self.mels, self.neighbours = window // 2 + 1, mels, neighbours
        self.register_buffer("bank", mel_bank(self.bins, mels, rate))
        self.register_buffer("hann", torch.hann_window(window))
        self.full = nn.ModuleList([nn.LSTM(mels, first), nn.LSTM(first, second)])
        self.to_mel = nn.Linear(second, mels)
        self.sub = nn.LSTM(2 * neighbours + 2, sub, num_layers=2)
        self.to_band = nn.Linear(sub, 1)
        self.merge = nn.LSTM(2 * mels, merge, num_layers=2)
        self.to_mask = nn.Linear(merge, 2 * self.bins)

    def forward(self, magnitude: Tensor) -> Tensor:
        """Compressed masks of noisy magnitudes.

        Raises:
            InputError: if there are other bins, or no frame.
        """
        if magnitude.ndim != 3 or magnitude.shape[1] != self.bins or not magnitude.shape[2]:
            raise InputError(
                f"FastFullSubNet reads magnitudes [n, {self.bins}, frames] with at least one frame; got "
                f"{tuple(magnitude.shape)}."
            )
        frames = nn.functional.pad(magnitude, (0, self.ahead)).permute(2, 0, 1)
        mel = frames @ self.bank
        seen = mel / self._means(mel.mean(2))[:, :, None]
        for layer in self.full:
            seen, _ = layer(seen)
        embedded = self.to_mel(seen).relu()
        units = self._units(mel, embedded)
        blocks = torch.cat(
            [units[:1], *(b.mean(0, keepdim=True) for b in torch.split(units[1:], self.every) if len(b))]
        )
        blocks = blocks / self._means(blocks.mean((2, 3)))[:, :, None, None]
        steps, n, bands, width = blocks.shape
        told, _ = self.sub(blocks.reshape(steps, n * bands, width))
        told = self.to_band(told).relu().view(steps, n, bands)
        told = told.repeat_interleave(self.every, 0)[: len(frames)]
        merged, _ = self.merge(torch.cat([embedded, told], 2))
        return self._shaped(self.to_mask(merged))[self.ahead :].permute(1, 2, 0, 3)

    def restore(self, noisy: Tensor) -> Tensor:
        """Sounds [n, samples] without their noise, of the same length; eval mode, no gradients.

        Raises:
            InputError: if they are no floating-point mono sounds, hold NaN, or are shorter than a window.
        """
        if noisy.ndim != 2 or not noisy.is_floating_point():
            raise InputError(
                f"FastFullSubNet reads mono sounds [n, samples], floating point; got {tuple(noisy.shape)}."
            )
        if noisy.shape[1] < self.window:
            raise InputError(
                f"FastFullSubNet needs at least {self.window} samples, one window; got {noisy.shape[1]}."
            )
        if not torch.isfinite(noisy).all():
            raise InputError("FastFullSubNet: the sound holds NaN or infinity.")
        with torch.no_grad():
            spectrum = self.spectrum(noisy)
            masked = spectrum * expanded(self.eval()(spectrum.abs()))
            return torch.istft(masked, self.window, self.window // 2, window=self.hann, length=noisy.shape[1])

    def spectrum(self, sound: Tensor) -> Tensor:
        """Complex spectrum [n, bins, frames] of sounds [n, samples]."""
        return torch.stft(sound, self.window, self.window // 2, window=self.hann, return_complex=True)

    def macs_a_second(self) -> float:
        """Multiplications and additions for one second of sound, from the layers' sizes."""
        full = sum(map(_macs, [*self.full, self.to_mel]))
        sub = (_macs(self.sub) + _macs(self.to_band)) * self.mels / self.every
        return (full + sub + _macs(self.merge) + _macs(self.to_mask)) * self.rate / (self.window // 2)

    def _units(self, mel: Tensor, embedded: Tensor) -> Tensor:
        """What each sub-band reads, [frames, n, mels, 2 neighbours + 2]."""
        reach = self.neighbours
        wide = nn.functional.pad(mel, (reach, reach), mode="reflect") if reach else mel
        near = torch.stack([wide[:, :, i : i + self.mels] for i in range(2 * reach + 1)], 3)
        return torch.cat([near, embedded[..., None]], 3)

    def _means(self, each: Tensor) -> Tensor:
        """Mean of what was seen up to each step, or of all, plus a little; [steps, n]."""
        if self.norm == "offline":
            return each.mean(0, keepdim=True).expand_as(each) + _EPS
        counts = torch.arange(1, len(each) + 1, device=each.device, dtype=each.dtype)[:, None]
        return each.cumsum(0) / counts + _EPS

    def _shaped(self, flat: Tensor) -> Tensor:
        return flat.view(*flat.shape[:-1], 2, self.bins).transpose(-1, -2)


class Stream:
    """A network that hears one frame at a time, with all it must remember; exactly the whole pass.

    Args:
        net: with `norm="cumulative"`.
        n: sounds at once.

    Raises:
        InputError: if the network divides by the whole clip's mean, which is not causal.
    """

    def __init__(self, net: FastFullSubNetNet, n: int = 1) -> None:
        if net.norm != "cumulative":
            raise InputError(
                "a stream needs norm='cumulative'; with 'offline' a frame depends on all later ones."
            )
        self.net = net.eval()
        self.at = self.blocks = 0
        self.full: list[Any] = [None] * len(net.full)
        self.sub: Any = None
        self.merge: Any = None
        self.mel_sum = torch.zeros(n, device=net.bank.device)
        self.block_sum, self.held = self.mel_sum.clone(), list[Tensor]()
        self.told = torch.zeros(n, net.mels, device=net.bank.device)

    @torch.no_grad()
    def push(self, magnitude: Tensor) -> Tensor | None:
        """Hear a frame's magnitudes [n, bins]; the mask [n, bins, 2] of the frame `ahead` before it, None at first."""
        net = self.net
        mel = magnitude[None] @ net.bank
        self.mel_sum = self.mel_sum + mel[0].mean(1)
        seen = mel / (self.mel_sum / (self.at + 1) + _EPS)[None, :, None]
        for i, layer in enumerate(net.full):
            seen, self.full[i] = layer(seen, self.full[i])
        embedded = net.to_mel(seen).relu()
        self.held.append(net._units(mel, embedded)[0])
        if self.at % net.every == 0:
            self._block()
        merged, self.merge = net.merge(torch.cat([embedded, self.told[None]], 2), self.merge)
        self.at += 1
        return net._shaped(net.to_mask(merged))[0] if self.at > net.ahead else None

    def close(self) -> list[Tensor]:
        """The masks of the last frames, after which nothing is heard."""
        silence = torch.zeros(len(self.mel_sum), self.net.bins, device=self.mel_sum.device)
        made = [self.push(silence) for _ in range(self.net.ahead)]
        return [mask for mask in made if mask is not None]

    def _block(self) -> None:
        block = torch.stack(self.held).mean(0)
        self.held.clear()
        self.blocks += 1
        self.block_sum = self.block_sum + block.mean((1, 2))
        block = block / (self.block_sum / self.blocks + _EPS)[:, None, None]
        told, self.sub = self.net.sub(block.flatten(0, 1)[None], self.sub)
        self.told = self.net.to_band(told).relu().view_as(self.told)


def _macs(layer: Any) -> int:
    """Multiplications and additions of one step of an LSTM or linear layer."""
    return sum(p.numel() for name, p in layer.named_parameters() if "weight" in name)
