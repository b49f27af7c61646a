"""How good a restored clip is: PSNR by both protocols, SSIM, seams; and how two curves of rate and quality differ.

Protocols are never mixed: "frame" is the mean over frames of each whole frame's PSNR; "paper" leaves out a border of
scale + 4 pixels inside every patch and pools the squared error of all that is left.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ..quality import structural

_LUMA = torch.tensor([0.2126, 0.7152, 0.0722], dtype=torch.float64).view(3, 1, 1)
"""Luma of BT.709 from R'G'B'."""


def psnr(error: float) -> float:
    """Decibels of a mean squared error of values from 0 to 1; infinite where nothing differs.

    Example:
        >>> psnr(0.01), psnr(0.0)
        (20.0, inf)
    """
    return math.inf if error == 0 else -10 * math.log10(error)


def luma(frame: Tensor) -> Tensor:
    """Luma of BT.709 of a uint8 RGB frame [3, h, w], float64 [h, w] from 0 to 1."""
    return (frame.double() / 255 * _LUMA).sum(0)


def ssim(a: Tensor, b: Tensor) -> float:
    """Structural similarity of two planes [h, w] from 0 to 1 (Wang et al., 2004).

    Gaussian windows of 11 x 11 with a deviation of 1.5, only those that lie wholly inside; K1 = 0.01, K2 = 0.03. Planes
    narrower than a window are compared by one window as large as fits.
    """
    return float(structural(a[None, None], b[None, None], side=min(11, *a.shape)))


@dataclass
class Meter:
    """Compares frames as they come; read `figures` at the end.

    Attributes:
        patch: height and width of a high-resolution patch, for the paper's protocol; None measures whole frames alone.
        scale: 2, 3 or 4, for the same.
        every: SSIM is taken on one frame in this many, the first included.
    """

    patch: tuple[int, int] | None = None
    scale: int = 1
    every: int = 1
    rgb: list[float] = field(default_factory=list)
    y: list[float] = field(default_factory=list)
    similar: list[float] = field(default_factory=list)
    pooled: list[float] = field(default_factory=list)
    seams: list[float] = field(default_factory=list)

    def add(self, restored: Tensor, wanted: Tensor) -> None:
        """Compare two uint8 frames [3, h, w]."""
        error = ((restored.double() - wanted.double()) / 255).square()
        y, w = luma(restored), luma(wanted)
        self.rgb.append(psnr(float(error.mean())))
        self.y.append(psnr(float((y - w).square().mean())))
        if (len(self.rgb) - 1) % self.every == 0:
            self.similar.append(ssim(y, w))
        if self.patch is not None:
            inside = _inside(error.mean(0), self.patch, self.scale + 4)
            self.pooled += [float(inside.mean())] if len(inside) else []
            self.seams.append(seam(y, self.patch) - seam(w, self.patch))

    def figures(self) -> dict[str, float]:
        """Name -> figure: PSNR in dB, SSIM, and seams in 8-bit steps of luma."""
        told = {"psnr rgb": _mean(self.rgb), "psnr y": _mean(self.y), "ssim y": _mean(self.similar)}
        if self.patch is not None:
            told["psnr rgb, paper's protocol"] = psnr(_mean(self.pooled)) if self.pooled else math.nan
            told["seams"] = 255 * _mean(self.seams)
        return told


def _inside(error: Tensor, patch: tuple[int, int], shave: int) -> Tensor:
    """Errors [n] of the pixels at least `shave` from their patch's border."""
    rows, columns = (torch.arange(n) % p for n, p in zip(error.shape, patch, strict=True))
    keep = [(at >= shave) & (at < p - shave) for at, p in zip((rows, columns), patch, strict=True)]
    return error[keep[0]][:, keep[1]].flatten()


def seam(y: Tensor, patch: tuple[int, int]) -> float:
    """Mean absolute difference of luma [h, w] across the borders of patches; 0 with one patch."""
    steps = [
        (y[p::p] - y[p - 1 :: p][: len(y[p::p])]).abs().flatten()
        for y, p in ((y, patch[0]), (y.T, patch[1]))
        if p < len(y)
    ]
    return float(torch.cat(steps).mean()) if steps else 0.0


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def bd_rate(anchor: Sequence[tuple[float, float]], tested: Sequence[tuple[float, float]]) -> float | None:
    """Average difference in rate at equal quality, in per cent; negative where `tested` needs fewer bits.

    Bjontegaard's difference with piecewise cubic (PCHIP) curves of log rate over quality, over the range of quality
    that both reach.

    Args:
        anchor: (rate, quality) points.
        tested: the same.

    Returns:
        The difference; None where a curve has fewer than two points or the ranges do not overlap.

    Example:
        >>> line = [(100.0, 30.0), (200.0, 33.0), (400.0, 36.0)]
        >>> round(bd_rate(line, [(r / 2, q) for r, q in line]), 6)
        -50.0
    """
    from scipy.interpolate import PchipInterpolator

    curves = [_rising(points) for points in (anchor, tested)]
    if any(len(q) < 2 for q, _ in curves):
        return None
    low, high = max(q[0] for q, _ in curves), min(q[-1] for q, _ in curves)
    if high <= low:
        return None
    areas = [float(PchipInterpolator(q, r).integrate(low, high)) for q, r in curves]
    return 100 * (math.exp((areas[1] - areas[0]) / (high - low)) - 1)


def rate_at(points: Sequence[tuple[float, float]], quality: float) -> float | None:
    """The rate at which a curve of (rate, quality) points reaches a quality; None outside of it."""
    from scipy.interpolate import PchipInterpolator

    q, r = _rising(points)
    if len(q) < 2 or not q[0] <= quality <= q[-1]:
        return None
    return math.exp(float(PchipInterpolator(q, r)(quality)))


def _rising(points: Sequence[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
    """Quality and log rate, by quality; a point that costs more and is worse than another is left out."""
    kept: list[tuple[float, float]] = []
    for rate, quality in sorted((r, q) for r, q in points if r > 0 and math.isfinite(q)):
        if not kept or quality > kept[-1][1]:
            kept.append((rate, quality))
    return np.array([q for _, q in kept]), np.log(np.array([r for r, _ in kept]))
