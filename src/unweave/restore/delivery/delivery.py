"""Encode a clip as a small stream with networks overfitted to it, and decode it again, to the same bits."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any, Literal

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import Module

from ...errors import InputError
from ...progress import progress
from ...settings import NonNegative, Positive, settings
from .backbones import Backbone, folded
from .clip import Clip
from .codec import CodecName, Segments, decode, encode, within
from .coding import Precision, State, coded_labels, coded_weights, shortened
from .container import Container
from .measures import Meter
from .overfitted import Overfits, Overfitted, Source
from .packets import packed
from .patches import Grid, padded_to, smaller
from .upscale import Upscaler, on_torch

VERSION = 1
_MANIFEST = 1500
"""Bytes set aside for the manifest when a budget is divided."""


@settings
class Encoding:
    """How a clip is sent.

    Attributes:
        scale: between the frames and the stream.
        codec: of the stream.
        bits: a second, for everything but sound: stream, networks, labels, manifest. The stream gets the best constant
            quality that the rest leaves room for.
        crf: constant rate factor of the stream, instead of a budget; 28 where neither is given.
        gop_seconds: length of a segment, which begins with a key frame.
        precision: of the networks' numbers.
        preset: of the encoder; slow for h264 and h265, 6 for av1 unless given.
    """

    scale: Literal[2, 3, 4] = 2
    codec: CodecName = "h264"
    bits: Positive | None = None
    crf: NonNegative | None = None
    gop_seconds: Positive = 2.0
    precision: Precision = "fp16"
    preset: str = ""

    def __post_init__(self) -> None:
        if self.bits is not None and self.crf is not None:
            raise InputError("Encoding.crf would do nothing beside bits, which chooses it. Give one of both.")

    def gop(self, rate: float) -> int:
        """Frames a segment."""
        return max(1, round(self.gop_seconds * rate))


@dataclass(frozen=True)
class Report:
    """What a delivery costs and is worth.

    Attributes:
        sizes: bytes of each kind of part.
        startup: bytes before the first frame can be shown: manifest, the networks and labels that the first segment
            needs, and that segment.
        seconds: of the clip.
        figures: name -> figure, by `Meter` and the method.
        crf: of the stream.
        trained: seconds of training.
    """

    sizes: Mapping[str, int]
    startup: int
    seconds: float
    figures: Mapping[str, float]
    crf: float
    trained: float

    @property
    def total(self) -> int:
        """Bytes of everything but sound."""
        return sum(size for kind, size in self.sizes.items() if kind != "audio")

    @property
    def bits(self) -> float:
        """Bits a second of everything but sound."""
        return 8 * self.total / self.seconds


@dataclass(frozen=True)
class Delivery:
    """A clip made ready to be sent.

    Attributes:
        container: the file in memory.
        report: of its making; None where it was read from a file.
    """

    container: Container
    report: Report | None = field(default=None, compare=False)

    @classmethod
    def encode(
        cls, clip: Clip, method: Overfits, encoding: Encoding | None = None, *, rng: Generator,
        general: Module | None = None, stream: tuple[float, Segments] | None = None,
    ) -> Delivery:  # fmt: skip
        """Make a clip ready to be sent.

        Frames whose sides do not fit are extended by their last row and column, and cut again by the reader. Inside
        `resumable(folder)` a killed training goes on, to the same bits.

        Args:
            clip: what should come out.
            method: trains the networks.
            encoding: how it is sent; the defaults unless given.
            rng: governs everything that is drawn.
            general: a network that the reader has too: trainings begin there, and what differs is sent.
            stream: of `streamed`, where it is made already.

        Raises:
            InputError: if the budget is too small, or the method cannot be used on this clip.
        """
        plan = encoding or Encoding()
        high = padded_to(clip.frames, 2 * plan.scale)
        crf, segments = stream or streamed(clip, method, plan)
        seen = torch.stack(list(decode(segments, plan.codec)))
        began = monotonic()
        source = Source(seen, high, plan.scale, clip.rate, general)
        made = method.overfit(source, rng=rng)
        trained = monotonic() - began
        return cls._assembled(clip, made, plan, (crf, segments), source, trained)

    @classmethod
    def _assembled(
        cls,
        clip: Clip,
        made: Overfitted,
        plan: Encoding,
        stream: tuple[float, Segments],
        source: Source,
        trained: float,
    ) -> Delivery:
        weights, nets = coded_nets(made, plan, source.general)
        grid = source.grid(*made.cell)
        spans = made.spans or (1,) * len(nets)
        upscaler = Upscaler(grid, plan.scale, [on_torch(net) for net in nets], spans, made.halo)
        h, w = clip.size
        size = (made.cell[0] * plan.scale, made.cell[1] * plan.scale)
        meter, digest = Meter(size, plan.scale, every=max(1, len(clip) // 30)), hashlib.sha256()
        with progress("restoring what the reader will see", len(clip)) as bar:
            for frame, low, labels in zip(clip.frames, source.low, made.labels, strict=True):
                restored = upscaler(low, labels)[:, :h, :w]
                digest.update(restored.contiguous().numpy().tobytes())
                meter.add(restored, frame)
                bar.advance()
        manifest = {
            "version": VERSION, "size": [h, w], "low": list(source.low.shape[2:]), "scale": plan.scale,
            "codec": plan.codec, "frames": len(clip), "gop": plan.gop(clip.rate), "base": _ratio(clip.time_base),
            "aspect": _ratio(clip.aspect), "cell": list(made.cell), "spans": list(spans), "halo": made.halo,
            "precision": plan.precision, "nets": [b.plain() for b in made.backbones], "chained": made.chained,
            "general": None if source.general is None else state_digest(source.general),
            "digest": digest.hexdigest(), "audio": None if clip.audio is None else _ratio(clip.audio.time_base),
        }  # fmt: skip
        container = Container(manifest, _parts(clip, made, weights, stream[1], plan.gop(clip.rate)))
        report = Report(
            container.sizes(),
            container.until("stream/0"),
            clip.seconds,
            {**meter.figures(), **made.figures},
            stream[0],
            trained,
        )
        return cls(container, report)

    def save(self, path: Path | str) -> None:
        """Write it as a file, whole or not at all.

        Raises:
            StorageError: if it cannot be written.
        """
        self.container.write(Path(path))

    @classmethod
    def open(cls, path: Path | str) -> Delivery:
        """Read a file, every part checked.

        Raises:
            InputError: if it is none.
            IntegrityError: naming the part that is cut off or changed.
        """
        return cls(Container.read(Path(path)))

    def decode(self, **how: Any) -> Iterator[Tensor]:
        """Frames in order, uint8 RGB [3, height, width]; arguments are those of `Reader`."""
        from .reader import Reader

        yield from Reader(self.container.manifest, iter(self.container.parts.items()), **how)


def state_digest(net: Module) -> str:
    """What tells one general network from another."""
    digest = hashlib.sha256()
    for name, tensor in sorted(net.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]


def remade(plain: Mapping[str, Any], scale: int, state: State | None = None) -> Module:
    """A network of a manifest, as it is sent: weight norm folded."""
    with torch.random.fork_rng(devices=[]):
        net = folded(Backbone(**plain).build(scale))  # type: ignore[arg-type]
    if state is not None:
        net.load_state_dict(state)
    return net.requires_grad_(False).eval()


def _ratio(value: Any) -> list[int]:
    return [value.numerator, value.denominator]


def streamed(clip: Clip, method: Overfits, plan: Encoding) -> tuple[float, Segments]:
    """The small stream of a clip, and the constant rate factor that was chosen for it.

    Where the same bits are wanted later it must be kept: x264 looks a little past the edge of small frames, at whatever
    lies there, and now and then decides otherwise.

    Args:
        clip: what should come out.
        method: whose networks take a part of a budget.
        plan: codec, scale, and either a budget or a quality.

    Raises:
        InputError: if the budget is too small.
    """
    low = smaller(padded_to(clip.frames, 2 * plan.scale), plan.scale)

    def encoded(crf: float) -> Segments:
        return encode(low, plan.codec, crf=crf, gop=plan.gop(clip.rate), rate=clip.rate, preset=plan.preset)

    if plan.bits is None:
        crf = 28.0 if plan.crf is None else plan.crf
        return crf, encoded(crf)
    each = {"fp32": 4, "fp16": 2, "int8": 1.1}[plan.precision]
    nets = each * method.weights(len(clip), clip.rate, plan.scale)
    total = plan.bits / 8 * clip.seconds
    left = (
        total - nets - _MANIFEST - 12 * len(clip)
    )  # at most a few bytes a frame for labels, times and tables
    if left <= 0:
        raise InputError(
            f"networks of {nets:,.0f} bytes leave nothing for the stream: {plan.bits:,.0f} bits a second over "
            f"{clip.seconds:.3g} s "
            f"are {total:,.0f} bytes. Give more bits, int8, fewer or smaller networks, or a longer clip, over "
            f"which they "
            "cost less a second."
        )
    return within(left, plan.codec, encoded)


def coded_nets(made: Overfitted, plan: Encoding, general: Module | None) -> tuple[list[bytes], list[Module]]:
    """Coded networks, and networks as the reader will have them."""
    coded: list[bytes] = []
    nets: list[Module] = []
    shared = None if general is None else {n: t.float() for n, t in general.state_dict().items()}
    before: State | None = None
    for backbone, net in zip(made.backbones, made.nets, strict=True):
        reference = before if made.chained and before is not None else fitting(shared, net.state_dict())
        data, state = coded_weights(net.state_dict(), plan.precision, reference)
        coded.append(data)
        nets.append(remade(backbone.plain(), plan.scale, state))
        before = state
    return coded, nets


def fitting(shared: State | None, wanted: Mapping[str, Tensor]) -> State | None:
    """The general network's weights, where names and shapes are those that are wanted."""
    if shared is None or {n: t.shape for n, t in shared.items()} != {n: t.shape for n, t in wanted.items()}:
        return None
    return shared


def _parts(
    clip: Clip, made: Overfitted, weights: list[bytes], segments: Segments, gop: int
) -> dict[str, bytes]:
    gaps = np.diff(np.array(clip.times, np.int64), prepend=0)
    parts = {"times": shortened(np.diff(gaps, prepend=0).astype("<i8").tobytes())}
    if clip.audio is not None:
        parts["audio/head"] = clip.audio.head
    nets, before, sounds = 0, None, list(clip.audio.packets) if clip.audio else []
    for i, segment in enumerate(segments):
        labels = made.labels[i * gop : (i + 1) * gop]
        for n in range(nets, int(labels.max()) + 1):
            parts[f"net/{n}"] = weights[n]
        nets = max(nets, int(labels.max()) + 1)
        parts[f"labels/{i}"] = coded_labels(labels, before)
        before = labels[-1]
        parts[f"stream/{i}"] = packed(segment)
        if clip.audio is not None:
            last = i + 1 == len(segments)
            end = None if last else clip.times[(i + 1) * gop] * clip.time_base
            own = [p for p in sounds if end is None or p.time * clip.audio.time_base < end]
            sounds = sounds[len(own) :]
            parts[f"audio/{i}"] = packed(own)
    return parts


def lay_out(manifest: Mapping[str, Any]) -> Grid:
    """The grid of a manifest."""
    (h, w), (rows, columns) = manifest["low"], manifest["cell"]
    return Grid(h, w, rows, columns)
