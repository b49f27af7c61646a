"""Play a delivery: restore its frames as they come, into a video file, pictures, or nothing but the clock."""

from __future__ import annotations

import io
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError, require
from ..io.files import folder_written_beside, written_beside
from ..progress import progress
from ..report.images import png
from ..restore.delivery.backbones import Backbone
from ..restore.delivery.container import opened, read_head, read_parts
from ..restore.delivery.delivery import remade
from ..restore.delivery.packets import Packet
from ..restore.delivery.reader import Reader
from ..restore.delivery.upscale import Backend

_LOSSLESS = ".mkv"


@dataclass(frozen=True)
class Played:
    """What playing did.

    Attributes:
        frames: restored.
        seconds: it took in all, writing included.
        restoring: seconds spent on decoding and restoring alone.
        rate: of the clip, frames a second.
        exact: whether every frame was the encoder's own, bit for bit.
        files: written.
    """

    frames: int
    seconds: float
    restoring: float
    rate: float
    exact: bool
    files: tuple[Path, ...]

    @property
    def speed(self) -> float:
        """Frames a second of decoding and restoring, the networks' loading left out where it is known."""
        return self.frames / self.restoring

    def __str__(self) -> str:
        same = (
            "the encoder's own, bit for bit"
            if self.exact
            else "not the encoder's bits (another back end or machine)"
        )
        lines = [
            f"{self.frames} frames, {self.speed:.1f} a second ({self.speed / self.rate:.2f} x real time); {same}."
        ]
        return "\n".join([*lines, *(f"Wrote {file}" for file in self.files)])


def play(
    path: Path | str, *, out: Path | None = None, frames: Path | None = None, backend: Backend = "torch",
    device: str = "cpu", threads: int = 0, general: Path | None = None, crf: int = 12,
) -> Played:  # fmt: skip
    """Restore the frames of a delivery in order, reading the file as if it came from a network.

    Args:
        path: a .uwv file.
        out: video to write: .mp4 or .mkv, by x264 at `crf`, with the sound as it was; .mkv with crf=0 loses nothing.
        frames: folder to write every frame into, as PNG.
        backend: "torch" or "onnxruntime".
        device: of torch.
        threads: of ONNX Runtime.
        general: weights (safetensors) of the network the delivery was made upon, if it was.
        crf: of the video that is written.

    Raises:
        InputError: if the file is no delivery, or its ending names no container.
        IntegrityError: naming the part that is cut off or changed.
        StorageError: if something cannot be written; nothing is left half-written.
    """
    path = Path(path)
    if out is not None and out.suffix not in (".mp4", _LOSSLESS):
        raise InputError(f"--out must end in .mp4 or .mkv; got {out}.")
    began = perf_counter()
    with opened(path) as file, ExitStack() as stack:
        manifest, listed = read_head(file, str(path))
        net = None if general is None else _general(general, manifest)
        sound: list[Packet] = []
        reader = Reader(
            manifest, read_parts(file, listed, str(path)), backend=backend, device=device, threads=threads, general=net,
            heard=sound.extend,
        )  # fmt: skip
        folder = None if frames is None else stack.enter_context(folder_written_beside(frames))
        video = None
        if out is not None:
            video = _Video(stack.enter_context(written_beside(out)), out.suffix, reader, crf)
        bar = stack.enter_context(progress("playing", len(reader)))
        restoring, at, restored = 0.0, 0, iter(reader)
        while True:
            start = perf_counter()
            frame = next(restored, None)
            restoring += perf_counter() - start
            if frame is None:
                break
            if folder is not None:
                (folder / f"{at:06d}.png").write_bytes(png(frame.float() / 255))
            if video is not None:
                video.show(at, frame, sound)
            sound.clear()
            at += 1
            bar.advance()
        if video is not None:
            video.hear(sound)  # what came after the last frame
            video.close()
        times, base = reader.times, reader.base
    seconds = float((times[-1] - times[0]) * base) * at / max(1, at - 1)
    files = tuple(p for p in (out, frames) if p is not None)
    return Played(at, perf_counter() - began, restoring, at / seconds, bool(reader.exact), files)


class _Video:
    """A video file that is written as frames and packets of sound come."""

    def __init__(self, path: Path, suffix: str, reader: Reader, crf: int) -> None:
        self.av: Any = require("av", extra="video", purpose="writing video")
        self.reader, self.kind, self.crf = reader, {".mp4": "mp4", _LOSSLESS: "matroska"}[suffix], crf
        self.file = self.av.open(str(path), "w", format=self.kind)
        self.track: Any = None
        self.sound: Any = None

    def _begin(self) -> None:
        told, reader = self.reader.manifest, self.reader
        height, width = told["size"]
        even = height % 2 == width % 2 == 0
        exact = self.crf == 0
        self.track = self.file.add_stream(
            "libx264rgb" if exact else "libx264", options={"crf": str(self.crf), "preset": "fast"}
        )
        self.track.height, self.track.width = height, width
        self.track.pix_fmt = "rgb24" if exact else "yuv420p" if even else "yuv444p"
        context = self.track.codec_context
        context.time_base, context.framerate = reader.base, Fraction(25)
        context.sample_aspect_ratio = Fraction(*told["aspect"])
        if not exact:
            context.color_range, context.colorspace, context.color_primaries, context.color_trc = 1, 1, 1, 1
        if reader.head:
            self.head = self.av.open(io.BytesIO(reader.head))
            self.sound = self.file.add_stream_from_template(self.head.streams.audio[0])

    def show(self, at: int, frame: Tensor, sound: list[Packet]) -> None:
        if self.track is None:
            self._begin()
        pixels = frame.permute(1, 2, 0).contiguous().numpy()
        shown = self.av.VideoFrame.from_ndarray(pixels, format="rgb24")
        if self.track.pix_fmt != "rgb24":
            shown = shown.reformat(format=self.track.pix_fmt, dst_colorspace="ITU709")
        shown.pts, shown.time_base = self.reader.times[at], self.reader.base
        self.file.mux(self.track.encode(shown))
        self.hear(sound)

    def hear(self, sound: list[Packet]) -> None:
        for packet in sound if self.sound is not None else ():
            coded = self.av.Packet(packet.data)
            coded.pts, coded.dts, coded.duration = packet.time, packet.order, packet.duration
            coded.time_base, coded.stream = Fraction(*self.reader.manifest["audio"]), self.sound
            self.file.mux(coded)

    def close(self) -> None:
        self.file.mux(self.track.encode(None))
        self.file.close()


def _general(file: Path, manifest: dict[str, Any]) -> torch.nn.Module:
    """The general network, of the architecture of the delivery's first."""
    return read_general(file, Backbone(**manifest["nets"][0]), manifest["scale"])


def read_general(file: Path, backbone: Backbone, scale: int) -> torch.nn.Module:
    """A general network from its safetensors.

    Raises:
        InputError: if they are not weights of this backbone.
    """
    from safetensors.torch import load_file

    if not file.is_file():
        raise InputError(f"there is no file {file}.")
    state = load_file(file)
    net = remade(backbone.plain(), scale)
    wanted = {n: tuple(t.shape) for n, t in net.state_dict().items()}
    if {n: tuple(t.shape) for n, t in state.items()} != wanted:
        raise InputError(f"{file} does not hold the weights of {backbone} at scale {scale}.")
    net.load_state_dict(state)
    return net
