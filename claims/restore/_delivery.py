"""The clips that delivery is measured on, and how: parts of real clips, decoded small streams, whole frames."""

from __future__ import annotations

import torch
from torch import Tensor

from claims.data import shared
from unweave.restore.delivery import Backbone, Clip, Overfitted, Source, Upscaler, read_clip
from unweave.restore.delivery.codec import decode, encode
from unweave.restore.delivery.measures import Meter
from unweave.restore.delivery.patches import smaller
from unweave.restore.delivery.upscale import on_torch

DATA = "48 frames of 160 x 224 pixels of two real clips (flower, Big Buck Bunny), x2, small streams by x264 at crf 20"
SMALL = Backbone(name="espcn", blocks=1, width=12, residual=True)
PLACES = {"flower.mp4": (200, 400), "bigbuckbunny.mp4": (300, 500)}


def clips(frames: int = 48) -> list[Clip]:
    """Every second frame of each clip, cut to its busiest part by hand."""
    found = []
    for name, (top, left) in PLACES.items():
        whole = read_clip(shared(f"video/{name}"), most=2 * frames)
        found.append(Clip.of(whole.frames[::2, :, top : top + 160, left : left + 224].contiguous(), 15))
    return found


def source_of(clip: Clip) -> Source:
    """As a method sees it."""
    low = smaller(clip.frames, 2)
    seen = torch.stack(list(decode(encode(low, "h264", crf=20, gop=30, rate=15), "h264")))
    return Source(seen, clip.frames, 2, 15.0)


def quality(made: Overfitted, source: Source) -> dict[str, float]:
    """Figures of `Meter` over whole frames."""
    spans = made.spans or (1,) * len(made.nets)
    upscale = Upscaler(source.grid(*made.cell), 2, [on_torch(net) for net in made.nets], spans, made.halo)
    meter = Meter((2 * made.cell[0], 2 * made.cell[1]), 2, every=12)
    for low, high, labels in zip(source.low, source.high, made.labels, strict=True):
        meter.add(upscale(low, labels), high)
    return meter.figures()


def pooled(made: Overfitted, source: Source) -> float:
    """dB of the mean squared error over all pixels of all frames."""
    spans = made.spans or (1,) * len(made.nets)
    upscale = Upscaler(source.grid(*made.cell), 2, [on_torch(net) for net in made.nets], spans, made.halo)
    errors: list[Tensor] = [
        ((upscale(low, labels).double() - high.double()) / 255).square().mean()
        for low, high, labels in zip(source.low, source.high, made.labels, strict=True)
    ]
    return float(-10 * torch.log10(torch.stack(errors).mean()))
