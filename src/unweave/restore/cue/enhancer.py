"""The unfolded Retinex model of CUE: light, reflectance and noise, updated in turn, then brightened."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import Module

from ...errors import InputError
from ...settings import Count, Positive, checked
from .._checks import require_pictures, require_unit
from .illumination import IlluminationPrior

_MOST = 10.0
"""Largest reflectance: where the light is nearly nothing, its quotient is noise."""


@dataclass(frozen=True)
class Parts:
    """A picture taken apart.

    Attributes:
        light: L, [n, 1, h, w].
        reflectance: R, [n, 3, h, w].
        noise: N, [n, 3, h, w].
        bright_light: L+.
        bright_reflectance: R+.
    """

    light: Tensor
    reflectance: Tensor
    noise: Tensor
    bright_light: Tensor
    bright_reflectance: Tensor

    @property
    def picture(self) -> Tensor:
        """L+ R+: the enhanced picture."""
        return self.bright_light * self.bright_reflectance


class CUENet(Module):
    """Dark pictures [n, 3, h, w] in [0, 1] -> bright ones.

    Args:
        stages: of the unfolding, the first of which is where it begins.
        width: channels of the two networks that brighten.
        hidden: channels of the small networks in each update.
        prior: channels of the illumination prior's first level.
        illumination: let the prior move the light; else a small network as for the reflectance.
        step: of the gradient steps, alpha and beta.
        ratio: what the light is asked to be raised by; trained at this.
    """

    method: ClassVar[str] = "cue"
    reads: ClassVar[str] = "picture"

    @checked
    def __init__(
        self,
        *,
        stages: Count = 3,
        width: Count = 8,
        hidden: Count = 32,
        prior: Count = 6,
        illumination: bool = True,
        step: Positive = 1e-3,
        ratio: Positive = 5.0,
    ) -> None:
        super().__init__()
        self.made: dict[str, Any] = {
            "stages": stages, "width": width, "hidden": hidden, "prior": prior, "illumination": illumination,
            "step": step, "ratio": ratio,
        }  # fmt: skip
        self.stages, self.step, self.ratio, self.channels = stages, step, ratio, 3
        self.prior = IlluminationPrior(prior) if illumination else None
        self.move_light = _lift(4 * prior, hidden) if illumination else _nearby(1, hidden)
        self.move_reflectance, self.move_noise = _nearby(3, hidden), _nearby(3, hidden)
        self.threshold = nn.Parameter(torch.tensor(10.0))
        self.raise_light, self.raise_reflectance = Interact(2, 1, width), Interact(3, 3, width)

    def forward(self, x: Tensor) -> Tensor:
        """The bright pictures, not clipped."""
        return self.parts(x).picture

    def parts(self, x: Tensor, ratio: float | None = None) -> Parts:
        """Light, reflectance and noise of pictures, and what they become."""
        require_pictures(x, "CUE", channels=3, finite=False)
        light = x.amax(1, keepdim=True)
        reflectance = (x / (light + 1e-8)).clamp(0, _MOST)
        noise = torch.zeros_like(x)
        for _ in range(self.stages - 1):
            light = self._light(x, light, reflectance, noise)
            bare = data_step(reflectance, light, noise, x, self.step)
            reflectance = (bare + self.move_reflectance(bare)).clamp(0, _MOST)
            bare = shrunk(x - reflectance * light, 1 / self.threshold.clamp_min(1e-3))
            noise = bare + self.move_noise(bare)
        asked = torch.full_like(light, self.ratio if ratio is None else ratio)
        raised = self.raise_light(torch.cat([light, asked], 1))
        return Parts(light, reflectance, noise, raised, self.raise_reflectance(reflectance))

    def restore(self, x: Tensor, *, ratio: float | None = None) -> Tensor:
        """The bright pictures in [0, 1], in eval mode and without gradients.

        Args:
            x: [n, 3, h, w] in [0, 1].
            ratio: how bright; that of training unless given.

        Raises:
            InputError: if they are no such pictures, or the ratio is not above 0.
        """
        require_pictures(x, "CUE", channels=3, least=2)
        require_unit(x, "CUE")
        if ratio is not None and not ratio > 0:
            raise InputError(f"CUE: the ratio must be above 0; got {ratio}.")
        if float(x.mean()) > 0.4:
            warnings.warn(
                f"the pictures are bright already (mean {float(x.mean()):.2f}); CUE will saturate them.",
                stacklevel=2,
            )
        with torch.no_grad():
            return self.eval().parts(x, ratio).picture.clamp(0, 1)

    def _light(self, x: Tensor, light: Tensor, reflectance: Tensor, noise: Tensor) -> Tensor:
        bare = data_step(light, reflectance, noise, x, self.step).mean(1, keepdim=True)
        if self.prior is None:
            return bare + self.move_light(bare)  # type: ignore[no-any-return]
        return bare + self.move_light(self.prior.features(light))  # type: ignore[no-any-return]


def data_step(moved: Tensor, other: Tensor, noise: Tensor, x: Tensor, step: float) -> Tensor:
    """A gradient step on |x - moved other - noise|^2 in `moved`: (1 - a o^2) m - a o (n - x); a holds the factor 2."""
    return (1 - step * other * other) * moved - step * other * (noise - x)


def shrunk(x: Tensor, by: Tensor | float) -> Tensor:
    """sign(x) max(|x| - by, 0)."""
    return x.sign() * (x.abs() - by).clamp_min(0)


class Interact(Module):
    """A U of two levels whose blocks look beside each pixel and at the whole picture's frequencies."""

    def __init__(self, into: int, out: int, width: int) -> None:
        super().__init__()
        self.head, self.tail = nn.Conv2d(into, width, 3, padding=1), nn.Conv2d(width, out, 3, padding=1)
        self.first, self.deep, self.last = _Both(width), _Both(2 * width), _Both(width)
        self.down, self.up = (
            nn.Conv2d(width, 2 * width, 2, stride=2),
            nn.ConvTranspose2d(2 * width, width, 2, stride=2),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[n, out, h, w]."""
        high, wide = x.shape[2:]
        y = self.first(self.head(F.pad(x, (0, wide % 2, 0, high % 2), mode="replicate")))
        y = self.last(y + self.up(self.deep(self.down(y))))
        made: Tensor = self.tail(y)[:, :, :high, :wide]
        return made


class _Both(Module):
    """Two couplings, one by depthwise 3x3 and one by 1x1 convolutions, beside convolutions of the spectrum."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels - channels // 2
        self.near = nn.Sequential(
            nn.Conv2d(half, half, 3, padding=1, groups=half),
            nn.ReLU(),
            nn.Conv2d(half, channels - half or half, 1),
        )
        self.across = nn.Sequential(
            nn.Conv2d(channels - half or half, half, 1), nn.ReLU(), nn.Conv2d(half, half, 1)
        )  # fmt: skip
        self.waves = nn.Sequential(
            nn.Conv2d(2 * channels, 2 * channels, 1), nn.ReLU(), nn.Conv2d(2 * channels, 2 * channels, 1)
        )
        self.mix, self.cut = nn.Conv2d(2 * channels, channels, 1), half

    def forward(self, x: Tensor) -> Tensor:
        a, b = x[:, : self.cut], x[:, self.cut :]
        b = b + self.near(a)
        a = a + self.across(b)
        spectrum = torch.fft.rfft2(x, norm="ortho")
        real, imaginary = self.waves(torch.cat([spectrum.real, spectrum.imag], 1)).chunk(2, 1)
        whole = torch.fft.irfft2(torch.complex(real, imaginary), s=x.shape[2:], norm="ortho")
        made: Tensor = x + self.mix(torch.cat([a, b, whole], 1))
        return made


def _nearby(channels: int, hidden: int) -> nn.Sequential:
    """Three 1x1 convolutions without biases."""
    return nn.Sequential(
        nn.Conv2d(channels, hidden, 1, bias=False), nn.LeakyReLU(0.2), nn.Conv2d(hidden, hidden, 1, bias=False),
        nn.LeakyReLU(0.2), nn.Conv2d(hidden, channels, 1, bias=False),
    )  # fmt: skip


def _lift(into: int, hidden: int) -> nn.Sequential:
    """What is added to the light, between 0 and 1."""
    return nn.Sequential(
        nn.Conv2d(into, hidden, 3, padding=1), nn.ReLU(), nn.Conv2d(hidden, hidden, 3, padding=1), nn.ReLU(),
        nn.Conv2d(hidden, 1, 3, padding=1), nn.Sigmoid(),
    )  # fmt: skip
