"""The illumination prior of CUE: a small U that has learnt to fill masked windows of smooth, edge-keeping light."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import Module


def bilateral(x: Tensor, *, reach: int = 2, colour: float = 0.2, space: float = 50.0) -> Tensor:
    """Bilateral filter of grey pictures [n, 1, h, w] over a square of 2 reach + 1 pixels; borders are repeated.

    Args:
        x: in [0, 1].
        reach: pixels to either side.
        colour: deviation of the Gaussian over differences of brightness.
        space: deviation of the Gaussian over distances, in pixels.
    """
    side = 2 * reach + 1
    n, _, high, wide = x.shape
    near = F.unfold(F.pad(x, (reach,) * 4, mode="replicate"), side).view(n, side * side, high, wide)
    at = torch.arange(-reach, reach + 1, dtype=x.dtype, device=x.device).square()
    apart = (at[:, None] + at).flatten().view(1, -1, 1, 1)
    weights = torch.exp(-0.5 * ((near - x) / colour).square() - 0.5 * apart / space**2)
    return (weights * near).sum(1, keepdim=True) / weights.sum(1, keepdim=True)


def windows(like: Tensor, side: int, share: float) -> Tensor:
    """Which pixels lie in masked windows, 1 there, [n, 1, h, w]; drawn from torch's global generator."""
    n, _, high, wide = like.shape
    rows, columns = -(-high // side), -(-wide // side)
    hidden = (torch.rand(n, 1, rows, columns) < share).to(like)
    return hidden.repeat_interleave(side, 2).repeat_interleave(side, 3)[:, :, :high, :wide]


class IlluminationPrior(Module):
    """A U of three levels with a global context at its bottom: light [n, 1, h, w] -> the same shape.

    Args:
        width: channels of the first level, doubled at each.
    """

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.width = width
        self.first, self.second = _pair(1, width), _pair(2 * width, 2 * width)
        self.down = nn.ModuleList(nn.Conv2d(c, 2 * c, 2, stride=2) for c in (width, 2 * width))
        self.bottom = _pair(4 * width, 4 * width)
        self.context = nn.Sequential(
            nn.Linear(4 * width, 4 * width), nn.ReLU(), nn.Linear(4 * width, 4 * width)
        )
        self.join = nn.Conv2d(8 * width, 4 * width, 1)
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * c, c, 2, stride=2) for c in (2 * width, width))
        self.merge = nn.ModuleList(_Merge(c) for c in (2 * width, width))
        self.out = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, light: Tensor) -> Tensor:
        """The filled light."""
        padded = self._padded(light)
        one, two, deep = self._levels(padded)
        y = self.merge[0](self.up[0](deep), two)
        y = self.merge[1](self.up[1](y), one)
        made: Tensor = self.out(y)[:, :, : light.shape[2], : light.shape[3]]
        return made

    def features(self, light: Tensor) -> Tensor:
        """What the bottom knows of the light, at its size, [n, 4 width, h, w]."""
        deep = self._levels(self._padded(light))[2]
        return F.interpolate(deep, light.shape[2:], mode="bilinear", align_corners=False)

    def loss(self, light: Tensor, side: int, share: float) -> Tensor:
        """Mean error on masked windows, of light and of two darker powers of it, each against its bilateral filter."""
        total = light.new_zeros(())
        powers = (1.0, 1 / float(0.2 + 0.3 * torch.rand(())), 1 / float(0.5 + 0.5 * torch.rand(())))
        for power in powers:
            dark = light.clamp(0, 1) ** power
            hidden = windows(dark, side, share)
            apart = (self(dark * (1 - hidden)) - bilateral(dark)).abs()
            total = total + (apart * hidden).sum() / hidden.sum().clamp_min(1)
        return total

    def _padded(self, light: Tensor) -> Tensor:
        return F.pad(light, (0, -light.shape[3] % 4, 0, -light.shape[2] % 4), mode="replicate")

    def _levels(self, light: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        one = self.first(light)
        two = self.second(self.down[0](one))
        deep = self.bottom(self.down[1](two))
        whole = self.context(deep.mean((2, 3)))[:, :, None, None].expand_as(deep)
        return one, two, self.join(torch.cat([deep, whole], 1))


class _Merge(Module):
    """What comes up and what was skipped, each channel weighed by the picture as a whole."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weigh = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(2 * channels, 2 * channels, 1), nn.Sigmoid()
        )
        self.mix = nn.Conv2d(2 * channels, channels, 3, padding=1)

    def forward(self, up: Tensor, skipped: Tensor) -> Tensor:
        both = torch.cat([up, skipped], 1)
        made: Tensor = F.relu(self.mix(both * self.weigh(both)))
        return made


def _pair(into: int, out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(into, out, 3, padding=1), nn.ReLU(), nn.Conv2d(out, out, 3, padding=1), nn.ReLU()
    )
