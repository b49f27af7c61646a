"""The low-resolution stream: really encoded and decoded, by the codecs that PyAV brings, each on one thread.

Frames go in and come out as RGB; in between they are 8-bit 4:2:0 in BT.709 with the limited range, whatever the size.
Every `gop` frames a new segment begins with a key frame that nothing before it is needed for.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ...errors import InputError, IntegrityError, require
from .packets import Packet

CodecName = Literal["h264", "h265", "av1"]
Segments = tuple[tuple[Packet, ...], ...]
_PURPOSE = "encoding and decoding video"


@dataclass(frozen=True)
class Codec:
    """A codec as PyAV has it.

    Attributes:
        encoder: FFmpeg's name.
        decoder: FFmpeg's name.
        preset: what comparisons of codecs take: slow for x264 and x265, 6 for SVT-AV1.
        step: distance between two constant-quality settings that are told apart.
        worst: the coarsest one.
    """

    encoder: str
    decoder: str
    preset: str
    step: float
    worst: int


CODECS: dict[str, Codec] = {
    "h264": Codec("libx264", "h264", "slow", 0.5, 51),
    "h265": Codec("libx265", "hevc", "slow", 0.5, 51),
    "av1": Codec("libsvtav1", "libdav1d", "6", 1.0, 63),
}


def encode(
    frames: Iterable[Tensor], codec: CodecName, *, crf: float, gop: int, rate: float, preset: str = ""
) -> Segments:
    """Encode frames at a constant quality.

    Args:
        frames: uint8 RGB [3, height, width], both sides even.
        codec: by name.
        crf: constant rate factor; smaller is better and larger.
        gop: frames a segment.
        rate: frames a second, for what an encoder makes of it.
        preset: of the encoder; `Codec.preset` unless given.

    Returns:
        Packets in the order of decoding, a tuple a segment; their time is the number of their frame.

    Raises:
        InputError: if a side is odd, or the codec is unknown or not in this build of FFmpeg.
    """
    av = require("av", extra="video", purpose=_PURPOSE)
    context: Any = None
    segments: list[list[Packet]] = []

    def keep(packets: Iterable[Any]) -> None:
        for packet in packets:
            if packet.is_keyframe and packet.pts % gop == 0:
                segments.append([])
            segments[-1].append(Packet(bytes(packet), packet.pts))

    for i, pixels in enumerate(frames):
        if context is None:
            context = _context(av, codec, tuple(pixels.shape[1:]), crf, gop, rate, preset)
        frame = av.VideoFrame.from_ndarray(pixels.permute(1, 2, 0).contiguous().numpy(), format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709")
        frame.pts, frame.time_base = i, context.time_base
        if i % gop == 0:
            frame.pict_type = av.video.frame.PictureType.I
        keep(context.encode(frame))
    if context is None:
        raise InputError("there is no frame to encode.")
    keep(context.encode(None))
    return tuple(map(tuple, segments))


def _context(
    av: Any, codec: str, size: tuple[int, ...], crf: float, gop: int, rate: float, preset: str
) -> Any:
    known = codec_of(codec)
    if any(side % 2 for side in size):
        raise InputError(f"4:2:0 video has even sides; got {size[1]} x {size[0]}.")
    try:
        context = av.CodecContext.create(known.encoder, "w")
    except (av.FFmpegError, ValueError) as error:
        raise InputError(f"{codec} needs {known.encoder}, which this build of FFmpeg lacks.") from error
    exact = Fraction(rate).limit_denominator(1001)
    context.height, context.width = size
    context.pix_fmt, context.gop_size, context.thread_count = "yuv420p", gop, 1
    context.time_base, context.framerate = 1 / exact, exact
    context.color_range, context.colorspace, context.color_primaries, context.color_trc = 1, 1, 1, 1
    options = {"preset": preset or known.preset, "crf": f"{crf:g}"}
    if codec == "h264":
        options |= {
            "forced-idr": "1",
            "x264-params": f"keyint={gop}:open-gop=0:threads=1:lookahead-threads=1",
        }
    elif codec == "h265":
        own = f"keyint={gop}:min-keyint={gop}:open-gop=0:pools=none:frame-threads=1:log-level=none:repeat-headers=1"
        options |= {"forced-idr": "1", "x265-params": own}
    else:
        os.environ.setdefault(
            "SVT_LOG", "1"
        )  # errors alone: it writes to the terminal past FFmpeg's own logging
        options["svtav1-params"] = f"keyint={gop}:lp=1:irefresh-type=2"
    context.options = options
    return context


def codec_of(name: str) -> Codec:
    """A codec by name.

    Raises:
        InputError: if it is unknown.
    """
    if name not in CODECS:
        raise InputError(f"there is no codec {name!r}. There are: {', '.join(CODECS)}.")
    return CODECS[name]


def decode(segments: Iterable[Sequence[Packet]], codec: str) -> Iterator[Tensor]:
    """Decode segments as they come; frames in order, uint8 RGB [3, height, width].

    Raises:
        IntegrityError: if a packet cannot be decoded.
        InputError: if the codec is unknown, or not in this build of FFmpeg.
    """
    av = require("av", extra="video", purpose=_PURPOSE)
    known = codec_of(codec)
    try:
        context = av.CodecContext.create(known.decoder, "r")
    except (av.FFmpegError, ValueError) as error:
        raise InputError(f"{codec} needs {known.decoder}, which this build of FFmpeg lacks.") from error
    context.thread_count = 1
    try:
        for segment in segments:
            for packet in segment:
                coded = av.Packet(packet.data)
                coded.pts = packet.time
                yield from map(_rgb, context.decode(coded))
        yield from map(_rgb, context.decode(None))
    except av.FFmpegError as error:
        raise IntegrityError(f"the stream cannot be decoded as {codec} ({error}).") from error


def _rgb(frame: Any) -> Tensor:
    array: np.ndarray[Any, Any] = frame.to_ndarray(format="rgb24", src_colorspace="ITU709")
    return torch.from_numpy(array).permute(2, 0, 1)


def stream_bytes(segments: Segments) -> int:
    """Bytes of all packets."""
    return sum(len(packet.data) for segment in segments for packet in segment)


def within(budget: float, codec: CodecName, encoded: Callable[[float], Segments]) -> tuple[float, Segments]:
    """The best constant quality whose stream takes at most `budget` bytes, found by bisection: a few encodings.

    Args:
        budget: in bytes.
        codec: whose settings are tried.
        encoded: constant rate factor -> segments.

    Raises:
        InputError: if even the coarsest stream takes more.
    """
    known = codec_of(codec)
    low, high = 1, round(known.worst / known.step)
    worst = encoded(high * known.step)
    if stream_bytes(worst) > budget:
        raise InputError(
            f"{budget:,.0f} bytes are left for the stream, and the coarsest {codec} takes "
            f"{stream_bytes(worst):,}. Give more "
            "bits, a larger scale, or smaller networks."
        )
    best = (high * known.step, worst)
    while low < high:  # high fits
        middle = (low + high) // 2
        tried = encoded(middle * known.step)
        if stream_bytes(tried) <= budget:
            high, best = middle, (middle * known.step, tried)
        else:
            low = middle + 1
    return best
