"""Short clips made on the spot: a picture of edges and a plain one, panned over, with a scene cut; no file is read."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import require
from ..random import seeded
from ..restore.delivery.clip import Clip


def panned(frames: int = 10, height: int = 48, width: int = 64, *, seed: int = 0, cut: bool = True) -> Clip:
    """A camera that pans over discs and stripes beside a smooth half: some patches are hard and some easy.

    Args:
        frames: at 25 a second.
        height: in pixels.
        width: in pixels.
        seed: of the picture.
        cut: half-way another picture begins.
    """
    scenes = [_scene(height + frames, width + 2 * frames, seed + s) for s in range(2)]
    shots = []
    for t in range(frames):
        scene = scenes[1 if cut and t >= frames // 2 else 0]
        shots.append(scene[:, t // 2 : t // 2 + height, t : t + width])
    return Clip.of((torch.stack(shots) * 255).round().byte())


def _scene(height: int, width: int, seed: int) -> Tensor:
    rng = seeded(seed)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    coarse = torch.rand(1, 3, 4, 5, generator=rng)
    scene = 0.3 + 0.4 * F.interpolate(coarse, (height, width), mode="bicubic", align_corners=False)[0].clamp(
        0, 1
    )
    for _ in range(40):
        cy, cx = (torch.rand(2, generator=rng) * torch.tensor([height, width * 0.55])).tolist()
        radius = 2 + 5 * float(torch.rand((), generator=rng))
        colour = torch.rand(3, 1, 1, generator=rng)
        disc = ((y - cy) ** 2 + (x - cx - 0.45 * width) ** 2 < radius**2).float()
        scene = scene * (1 - disc) + colour * disc
    stripes = ((x + y) // 3 % 2).float() * (y > 0.6 * height) * (x > 0.5 * width)
    return (scene * (1 - 0.5 * stripes)).clamp(0, 1)


def write_clip(
    clip: Clip, path: Path, *, codec: str = "libx264", pix_fmt: str = "yuv420p", sound: bool = True
) -> Path:
    """Write a clip as a file, with a tone as its sound: something for the command line to read.

    Args:
        clip: any, with even sides for "yuv420p".
        path: whose ending names the container.
        codec: FFmpeg's name of the encoder.
        pix_fmt: FFmpeg's name of the pixels' layout.
        sound: whether there is any.
    """
    av = require("av", extra="video", purpose="writing video")
    with av.open(str(path), "w") as out:
        video = out.add_stream(codec, rate=Fraction(25), options={"crf": "12"})
        video.height, video.width = clip.size
        video.pix_fmt, video.codec_context.time_base = pix_fmt, clip.time_base
        tone = out.add_stream("aac", rate=8000, layout="mono") if sound else None
        for time, pixels in zip(clip.times, clip.frames, strict=True):
            frame = av.VideoFrame.from_ndarray(pixels.permute(1, 2, 0).contiguous().numpy(), format="rgb24")
            frame.pts, frame.time_base = time, clip.time_base
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
        if tone is not None:
            wave = torch.sin(torch.arange(int(8000 * clip.seconds)) * 0.35)[None].numpy()
            samples = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
            samples.sample_rate, samples.pts = 8000, 0
            out.mux(tone.encode(samples))
            out.mux(tone.encode(None))
    return path
