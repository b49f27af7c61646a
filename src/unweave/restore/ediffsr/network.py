"""The noise predictor of EDiffSR: a U of simple gated blocks without attention maps, told the step."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.nn import Module

from ...errors import InputError
from ...settings import Count, Positive, checked
from .._attention import ChannelAttention
from .._checks import require_pictures, require_unit
from .scheduler import MeanReverting, Mode

Prior = Literal["joint", "condition", "none"]


class EDiffSRNet(Module):
    """Noise of x_t, given the enlarged small picture and the step; with its schedule it restores.

    Args:
        scale: of the sides.
        channels: of the pictures.
        width: channels of the first level, doubled at each.
        encoder: blocks of each level, going down.
        middle: blocks at the bottom.
        decoder: blocks of each level, going up.
        prior: where the channel-attention block stands: on picture and condition together (the authors' code), on the
            condition alone (the paper), or nowhere.
        steps: T of the schedule.
        spread: lambda.
        delta: see `MeanReverting`.
        kind: see `MeanReverting`.
    """

    method: ClassVar[str] = "ediffsr"
    reads: ClassVar[str] = "picture"

    @checked
    def __init__(
        self,
        *,
        scale: Count = 4,
        channels: Count = 3,
        width: Count = 64,
        encoder: tuple[Count, ...] | list[Count] = (14, 1, 1, 1),
        middle: Count = 1,
        decoder: tuple[Count, ...] | list[Count] = (1, 1, 1, 1),
        prior: Prior = "joint",
        steps: Count = 100,
        spread: Positive = 50 / 255,
        delta: Positive = 0.005,
        kind: Literal["cosine", "linear", "constant"] = "cosine",
    ) -> None:
        super().__init__()
        if len(encoder) != len(decoder):
            raise InputError(
                f"EDiffSR: encoder and decoder need as many levels; got {encoder} and {decoder}."
            )
        self.made: dict[str, Any] = {
            "scale": scale, "channels": channels, "width": width, "encoder": list(encoder), "middle": middle,
            "decoder": list(decoder), "prior": prior, "steps": steps, "spread": spread, "delta": delta, "kind": kind,
        }  # fmt: skip
        self.scale, self.channels, self.prior = scale, channels, prior
        self.schedule = MeanReverting(steps=steps, spread=spread, delta=delta, kind=kind)
        self.time = nn.Sequential(nn.Linear(width, 8 * width), _Gate(), nn.Linear(4 * width, 4 * width))
        self.head = nn.Conv2d(2 * channels, width, 3, padding=1)
        self.attend = (
            None if prior == "none" else ChannelAttention(channels if prior == "condition" else width)
        )
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        self.shrink, self.grow = nn.ModuleList(), nn.ModuleList()
        at = width
        for count in encoder:
            self.down.append(nn.ModuleList(_Block(at, 4 * width) for _ in range(count)))
            self.shrink.append(nn.Conv2d(at, 2 * at, 2, stride=2))
            at *= 2
        self.middle = nn.ModuleList(_Block(at, 4 * width) for _ in range(middle))
        for count in decoder:
            self.grow.append(nn.Sequential(nn.Conv2d(at, 2 * at, 1, bias=False), nn.PixelShuffle(2)))
            at //= 2
            self.up.append(nn.ModuleList(_Block(at, 4 * width) for _ in range(count)))
        self.tail = nn.Conv2d(width, channels, 3, padding=1)
        self.width, self.part = width, 2 ** len(encoder)

    def forward(self, x: Tensor, mean: Tensor, t: Tensor) -> Tensor:
        """The noise in x_t [n, c, h, w] around a mean of that shape, at steps [n] (or one for all)."""
        high, wide = x.shape[2:]
        pad = (0, -wide % self.part, 0, -high % self.part)
        condition = (
            mean + self.attend(mean) if self.attend is not None and self.prior == "condition" else mean
        )
        both = F.pad(torch.cat([x - mean, condition], 1), pad)
        told = self.time(_waves(t.reshape(-1).expand(len(x)), self.width).to(x.dtype))
        y = self.head(both)
        if self.attend is not None and self.prior == "joint":
            y = y + (y + self.attend(y))
        skips = []
        for blocks, smaller in zip(self.down, self.shrink, strict=True):
            for block in blocks:  # type: ignore[attr-defined]
                y = block(y, told)
            skips.append(y)
            y = smaller(y)
        for block in self.middle:
            y = block(y, told)
        for larger, blocks in zip(self.grow, self.up, strict=True):
            y = larger(y) + skips.pop()
            for block in blocks:  # type: ignore[attr-defined]
                y = block(y, told)
        made: Tensor = self.tail(y)[:, :, :high, :wide]
        return made

    def mean_of(self, small: Tensor) -> Tensor:
        """The small pictures, enlarged: what the diffusion reverts to."""
        return F.interpolate(small, scale_factor=self.scale, mode="bicubic", align_corners=False)

    def restore(
        self,
        x: Tensor,
        *,
        steps: int | None = None,
        samples: int = 1,
        mode: Mode = "sde",
        rng: Generator | None = None,
    ) -> Tensor:
        """Large pictures drawn from what the small ones could be; detail that was lost is made up.

        Args:
            x: small pictures [n, c, h, w] in [0, 1].
            steps: of the sampler; all of training's unless given.
            samples: draws that are averaged: more give up detail for fidelity.
            mode: see `Sampler.step`.
            rng: of the draws; seeded by 0 unless given.

        Raises:
            InputError: if the pictures have other channels, hold NaN, lie outside [0, 1] or would stay below 16 pixels.
        """
        require_pictures(x, "EDiffSR", channels=self.channels, least=-(-16 // self.scale))
        require_unit(x, "EDiffSR")
        if samples < 1:
            raise InputError(f"EDiffSR: samples must be at least 1; got {samples}.")
        rng = rng or Generator().manual_seed(0)
        sampler = self.schedule.sampler()
        sampler.set_timesteps(self.schedule.steps if steps is None else steps)
        total = torch.zeros(())
        with torch.no_grad():
            self.eval()
            sampler.set_mean(mean := self.mean_of(x))
            for _ in range(samples):
                y = sampler.begin(torch.randn(mean.shape, generator=rng, dtype=x.dtype).to(x.device))
                for t in sampler.timesteps:
                    noise = self(y, mean, t.to(x.device))
                    y = sampler.step(noise, t, y, generator=rng, mode=mode).prev_sample
                total = total + y.clamp(0, 1)
        return total / samples


class _Gate(Module):
    """One half of the channels times the other."""

    def __init__(self, dim: int = -1) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, self.dim)
        return a * b


class _Norm(Module):
    """Layer normalisation over channels, with a gain and no bias."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        spread, mean = torch.var_mean(x, 1, unbiased=False, keepdim=True)
        return (x - mean) * (spread + 1e-5).rsqrt() * self.gain


class _Block(Module):
    """Gated convolutions with channel attention, then a gated feed-forward, moved by the step; begins as identity."""

    def __init__(self, channels: int, told: int) -> None:
        super().__init__()
        self.told = nn.Sequential(_Gate(), nn.Linear(told // 2, 4 * channels))
        self.norms = nn.ModuleList(_Norm(channels) for _ in range(2))
        self.inner = nn.Sequential(
            nn.Conv2d(channels, 2 * channels, 1),
            nn.Conv2d(2 * channels, 2 * channels, 3, padding=1, groups=2 * channels),
            _Gate(1),
        )
        self.weigh = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, channels, 1))
        self.out = nn.Conv2d(channels, channels, 1)
        self.forth = nn.Sequential(
            nn.Conv2d(channels, 2 * channels, 1), _Gate(1), nn.Conv2d(channels, channels, 1)
        )
        self.beta, self.gamma = (nn.Parameter(torch.zeros(1, channels, 1, 1)) for _ in range(2))

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        shift, scale, shift2, scale2 = self.told(told)[:, :, None, None].chunk(4, 1)
        y = self.inner(self.norms[0](x) * (1 + scale) + shift)
        x = x + self.beta * self.out(y * self.weigh(y))
        made: Tensor = x + self.gamma * self.forth(self.norms[1](x) * (1 + scale2) + shift2)
        return made


def _waves(t: Tensor, width: int) -> Tensor:
    """Sines and cosines of the step, [n, width]."""
    half = width // 2
    rates = torch.exp(-math.log(10000) * torch.arange(half, device=t.device) / max(half - 1, 1))
    angles = t.float()[:, None] * rates
    return F.pad(torch.cat([angles.sin(), angles.cos()], 1), (0, width % 2))
