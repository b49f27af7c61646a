"""A video in memory, as it is seen: upright, 8 bits a channel, every frame with its time, its sound untouched.

Read with PyAV. What cannot be carried on as it is, is refused by name: more than 8 bits a channel or a high dynamic
range, interlaced fields, frames that change their size, a file that breaks off.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import InputError, require
from .container import MAGIC
from .packets import Packet

_HDR = (16, 18)
"""Transfer functions of ITU-T H.273 with a high dynamic range: PQ and HLG."""
_BT601, _BT709 = "ITU601", "ITU709"
_MATRICES = {1: _BT709, 5: _BT601, 6: _BT601, 7: "SMPTE240M", 4: "FCC"}
_UNSPECIFIED, _RGB = 2, 0


@dataclass(frozen=True)
class Audio:
    """A track of sound, as packets that are handed on without being decoded.

    Attributes:
        head: a Matroska file that holds the track's description and its first packet.
        packets: all of them in order; times in `time_base`.
        time_base: seconds a unit.
    """

    head: bytes = field(repr=False)
    packets: tuple[Packet, ...] = field(repr=False)
    time_base: Fraction


@dataclass(frozen=True)
class Clip:
    """A video in memory.

    Attributes:
        frames: uint8 RGB [frames, 3, height, width].
        times: when each frame is shown, in `time_base`, strictly increasing; any spacing.
        time_base: seconds a unit.
        audio: the first track of sound, or None.
        aspect: width of a pixel by its height.
        notes: what was passed over or assumed, in sentences.
    """

    frames: Tensor
    times: tuple[int, ...]
    time_base: Fraction
    audio: Audio | None = None
    aspect: Fraction = Fraction(1)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        shape = tuple(self.frames.shape)
        if self.frames.dtype != torch.uint8 or len(shape) != 4 or shape[1] != 3:
            raise InputError(
                f"Clip.frames must be uint8 RGB [frames, 3, height, width]; got {self.frames.dtype} {shape}."
            )
        if shape[0] < 2:
            raise InputError(
                f"a video needs at least two frames; this one has {shape[0]}. Restore single pictures instead."
            )
        if len(self.times) != shape[0] or any(
            b <= a for a, b in zip(self.times, self.times[1:], strict=False)
        ):
            raise InputError(f"Clip.times must be {shape[0]} increasing whole numbers, one a frame.")

    @classmethod
    def of(cls, frames: Tensor, rate: Fraction | int = 25) -> Clip:
        """Frames [frames, 3, height, width] at a constant rate (frames a second)."""
        rate = Fraction(rate)
        return cls(
            frames, tuple(i * rate.denominator for i in range(len(frames))), Fraction(1, rate.numerator)
        )

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.frames.shape[2], self.frames.shape[3]

    @property
    def seconds(self) -> float:
        """From the first frame to the end of the last, which lasts as long as a frame does on average."""
        n = len(self)
        return float((self.times[-1] - self.times[0]) * self.time_base) * n / (n - 1)

    @property
    def rate(self) -> float:
        """Frames a second, on average."""
        return len(self) / self.seconds

    def cut(
        self,
        start: int = 0,
        stop: int | None = None,
        *,
        rows: slice = slice(None),
        columns: slice = slice(None),
    ) -> Clip:
        """The frames from `start` to before `stop`, and of them these rows and columns; without sound."""
        return Clip(
            self.frames[start:stop, :, rows, columns].contiguous(), self.times[start:stop], self.time_base,
            aspect=self.aspect, notes=self.notes,
        )  # fmt: skip


def read_clip(path: Path | str, *, most: int | None = None) -> Clip:
    """Read a video file: its first video track, and its first track of sound.

    A rotation written in the file is carried out. Where the file does not say by which matrix its colours were made,
    BT.709 is taken from 720 rows on and BT.601 below, as players do.

    Args:
        path: any file that FFmpeg reads.
        most: frames to read at most; sound then ends where they end.

    Raises:
        InputError: if it is no video, breaks off, has one frame, has more than 8 bits a channel or a high dynamic
            range, is interlaced, or its frames change size.
        MissingExtraError: if PyAV is absent.
    """
    av = require("av", extra="video", purpose="reading video")
    path = Path(path)
    if not path.is_file():
        raise InputError(f"there is no file {path}.")
    with open(path, "rb") as begins:
        if begins.read(len(MAGIC)) == MAGIC:  # FFmpeg would find the small stream in it
            raise InputError(f"{path} is a delivery already. Play it: unweave play {path}.")
    try:
        with av.open(str(path)) as file:
            if not file.streams.video or file.streams.video[0].codec_context is None:
                raise InputError(f"{path} has no video track.")
            track, sound = file.streams.video[0], next(iter(file.streams.audio), None)
            frames, times = _frames(path, file, track, most)
            aspect = Fraction(track.codec_context.sample_aspect_ratio or 1) or Fraction(1)
            base, rate = Fraction(track.time_base), Fraction(track.average_rate or 25)
    except av.FFmpegError as error:
        raise InputError(f"{path} is not a video that FFmpeg can read to its end ({error}).") from error
    if len(frames) < 2:
        raise InputError(f"{path} has {len(frames)} frame; a video needs at least two.")
    notes: list[str] = []
    if any(t is None for t in times) or any(b <= a for a, b in zip(times, times[1:], strict=False)):
        notes.append(
            f"the file tells no usable times: frames are taken as evenly spaced, {float(rate):.4g} a second"
        )
        times, base = [i * rate.denominator for i in range(len(times))], Fraction(1, rate.numerator)
    if len(times) > 1 and sound is not None:
        end = None if most is None else float((2 * times[-1] - times[-2]) * base)
        track_of_sound = _audio(av, path, end)
    else:
        track_of_sound = None
    return Clip(torch.stack(frames), tuple(times), base, track_of_sound, aspect, tuple(notes))


def _frames(path: Path, file: Any, track: Any, most: int | None) -> tuple[list[Tensor], list[int]]:
    frames: list[Tensor] = []
    times: list[int] = []
    for frame in file.decode(track):
        _refuse(path, frame)
        pixels = torch.from_numpy(upright_rgb(frame)).permute(2, 0, 1).contiguous()
        if frames and pixels.shape != frames[0].shape:
            raise InputError(
                f"{path}: frame {len(frames)} is {pixels.shape[2]} x {pixels.shape[1]}, those before it "
                f"{frames[0].shape[2]} x {frames[0].shape[1]}. Cut the file where its size changes."
            )
        if frame.is_corrupt:
            raise InputError(f"{path}: frame {len(frames)} is damaged. Give a whole file.")
        frames.append(pixels)
        times.append(frame.pts)
        if most is not None and len(frames) >= most:
            break
    return frames, times


def _refuse(path: Path, frame: Any) -> None:
    depth = max(component.bits for component in frame.format.components)
    if depth > 8 or int(frame.color_trc) in _HDR:
        what = "a high dynamic range" if int(frame.color_trc) in _HDR else f"{depth} bits a channel"
        raise InputError(
            f"{path} has {what} ({frame.format.name}); delivery works on 8 bits a channel with a standard "
            f"range. Convert it "
            "first, say by ffmpeg's filters zscale and tonemap, and -pix_fmt yuv420p."
        )
    if frame.interlaced_frame:
        raise InputError(f"{path} is interlaced. Deinterlace it first, say by ffmpeg's filter bwdif.")


def upright_rgb(frame: Any) -> np.ndarray[Any, Any]:
    """A decoded frame as uint8 RGB [height, width, 3], turned as the file says."""
    matrix = int(frame.colorspace)
    told = _MATRICES.get(matrix) or (_BT709 if frame.height >= 720 else _BT601)
    keep = frame.format.is_rgb or matrix == _RGB
    array = (
        frame.to_ndarray(format="rgb24") if keep else frame.to_ndarray(format="rgb24", src_colorspace=told)
    )
    turns = round(getattr(frame, "rotation", 0) / 90)
    return np.ascontiguousarray(np.rot90(array, turns)) if turns else array


def _audio(av: Any, path: Path, end: float | None) -> Audio | None:
    packets: list[Packet] = []
    head = io.BytesIO()
    with av.open(str(path)) as file:
        track = file.streams.audio[0]
        base = Fraction(track.time_base)
        with av.open(head, "w", format="matroska") as out:
            copy = out.add_stream_from_template(track)
            for packet in file.demux(track):
                if not packet.size or packet.dts is None or (end is not None and packet.dts * base >= end):
                    continue
                time = packet.pts if packet.pts is not None else packet.dts
                packets.append(Packet(bytes(packet), time, packet.dts, packet.duration or 0))
                if len(packets) == 1:
                    packet.stream = copy
                    out.mux(packet)
    return Audio(head.getvalue(), tuple(packets), base) if packets else None
