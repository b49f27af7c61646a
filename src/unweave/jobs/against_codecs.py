"""A delivery against plain codecs at equal total bits: curves, Bjontegaard differences, crops, and who wins where.

Four arms over one ladder of constant rate factors, all in the same colours, none with sound: the codec at full size;
the codec small, enlarged by bicubic and by Lanczos interpolation; the codec small with networks. Bits are those of
everything that is sent: streams with their tables, networks, labels, manifest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn import Module

from ..errors import require
from ..progress import progress
from ..random import child
from ..restore.delivery import Clip, Delivery, Encoding, Overfits
from ..restore.delivery.codec import Segments, decode, encode
from ..restore.delivery.measures import Meter, bd_rate, rate_at
from ..restore.delivery.packets import packed
from ..restore.delivery.patches import bicubic, padded_to, smaller

NATIVE, BICUBIC, LANCZOS, OURS = (
    "codec at full size",
    "codec small + bicubic",
    "codec small + Lanczos",
    "codec small + networks",
)


@dataclass(frozen=True)
class Arms:
    """What the comparison found.

    Attributes:
        codec: of all arms.
        seconds: of the clip.
        curves: arm -> points {"crf", "kbit/s", "psnr rgb", "psnr y", "ssim y", "bytes", "stream"}, in order of the
            ladder.
        bd: arm -> quality -> Bjontegaard difference in rate against the codec at full size, per cent; None where the
            curves do not overlap.
        break_even: seconds of such a clip from which networks of this size pay off against the codec at full size,
            at the middle of the overlap in luma; None if the small stream alone takes more.
        crops: arm -> PNG of the same part of the middle frame, as base64, at about equal bits.
        note: on what is missing.
    """

    codec: str
    seconds: float
    curves: Mapping[str, Sequence[Mapping[str, float]]]
    bd: Mapping[str, Mapping[str, float | None]]
    break_even: float | None
    crops: Mapping[str, str] = field(repr=False)
    note: str = ""

    def lead(self) -> list[str]:
        """Who wins, in sentences."""
        ours = self.bd[OURS]["psnr y"]
        said = []
        if ours is None:
            said.append(
                f"Against {self.codec} at full size no quality is reached by both; the curves stand beside one another."
            )
        elif ours < 0:
            said.append(
                f"At equal quality in luma the delivery takes {-ours:.1f} % fewer bits than {self.codec} at full size."
            )
        else:
            said.append(
                f"{self.codec} alone at full size wins: at equal quality in luma the delivery takes {ours:.1f} "
                f"% more bits."
            )
        if ours is not None and ours >= 0:
            said.append(
                "Networks of this size never pay off here: the small stream alone takes more at that quality."
                if self.break_even is None
                else f"Networks cost the same for a longer clip: at the same content they would pay off from "
                f"{self.break_even:.0f} s."
            )
        small = self.bd[BICUBIC]["psnr y"]
        if small is not None and ours is not None:
            better = "fewer" if ours < small else "more"
            said.append(
                f"It takes {better} bits than the small stream enlarged by bicubic interpolation ({small:+.1f} %)."
            )
        return [*said, *([self.note] if self.note else [])]


def against_codecs(
    clip: Clip, method: Overfits, encoding: Encoding, points: Sequence[float], *, rng: Generator,
    general: Module | None = None, work: Path | None = None,
) -> Arms:  # fmt: skip
    """Encode a clip along a ladder of constant rate factors, by the codec alone and with networks.

    Args:
        clip: the reference.
        method: trains the networks, anew at each point.
        encoding: codec, scale, preset, precision; its crf or bits are not read.
        points: constant rate factors of the small stream; the codec at full size takes them 4 coarser, for it is the
            larger stream.
        rng: governs the trainings.
        general: network that the reader has.
        work: folder for what survives a kill.

    Raises:
        InputError: as `Delivery.encode`.
    """
    del work
    plan = Encoding(
        scale=encoding.scale, codec=encoding.codec, crf=points[0], gop_seconds=encoding.gop_seconds,
        precision=encoding.precision, preset=encoding.preset,
    )  # fmt: skip
    high = padded_to(clip.frames, 2 * plan.scale)
    low = smaller(high, plan.scale)
    curves: dict[str, list[dict[str, float]]] = {NATIVE: [], BICUBIC: [], LANCZOS: [], OURS: []}
    shown: dict[str, list[Tensor]] = {arm: [] for arm in curves}
    seeds = [child(rng) for _ in points]
    with progress("comparing with codecs", len(points)) as bar:
        for crf, seed in zip(points, seeds, strict=True):
            native = _encoded(high, plan, crf + 4, clip)
            _point(curves, shown, NATIVE, clip, decode(native, plan.codec), _bytes(native), crf + 4)
            small = _encoded(low, plan, crf, clip)
            seen = torch.stack(list(decode(small, plan.codec)))
            _point(curves, shown, BICUBIC, clip, bicubic(seen, plan.scale), _bytes(small), crf)
            _point(curves, shown, LANCZOS, clip, lanczos(seen, plan.scale), _bytes(small), crf)
            made = Delivery.encode(clip, method, plan, rng=seed, general=general, stream=(crf, small))
            assert made.report is not None
            _point(
                curves, shown, OURS, clip, made.decode(general=general), made.report.total, crf, _bytes(small)
            )
            bar.advance()
    curve = {
        a: {q: [(p["kbit/s"], p[q]) for p in c] for q in ("psnr y", "psnr rgb", "ssim y")}
        for a, c in curves.items()
    }
    bd = {a: {q: bd_rate(curve[NATIVE][q], curve[a][q]) for q in curve[a]} for a in curves if a != NATIVE}
    note = "VMAF is left out: this build of FFmpeg has no libvmaf." if not _has_vmaf() else ""
    return Arms(
        plan.codec,
        clip.seconds,
        curves,
        bd,
        _break_even(curves, clip.seconds),
        _crops(clip, curves, shown),
        note,
    )


def _encoded(frames: Tensor, plan: Encoding, crf: float, clip: Clip) -> Segments:
    return encode(frames, plan.codec, crf=crf, gop=plan.gop(clip.rate), rate=clip.rate, preset=plan.preset)


def _bytes(segments: Segments) -> int:
    return sum(len(packed(segment)) for segment in segments)


def lanczos(frames: Tensor, scale: int) -> Iterator[Tensor]:
    """uint8 frames [n, 3, h, w] enlarged one by one by FFmpeg's Lanczos filter."""
    av: Any = require("av", extra="video", purpose="enlarging by Lanczos interpolation")
    for frame in frames:
        shown = av.VideoFrame.from_ndarray(frame.permute(1, 2, 0).contiguous().numpy(), format="rgb24")
        h, w = frame.shape[1:]
        large = shown.reformat(width=w * scale, height=h * scale, format="rgb24", interpolation="LANCZOS")
        yield torch.from_numpy(large.to_ndarray(format="rgb24")).permute(2, 0, 1)


def _point(
    curves: dict[str, list[dict[str, float]]], shown: dict[str, list[Tensor]], arm: str, clip: Clip,
    restored: Iterable[Tensor], size: int, crf: float, stream: int | None = None,
) -> None:  # fmt: skip
    h, w = clip.size
    meter = Meter(every=max(1, len(clip) // 15))
    middle = len(clip) // 2
    for i, (frame, wanted) in enumerate(zip(restored, clip.frames, strict=True)):
        meter.add(frame[:, :h, :w], wanted)
        if i == middle:
            shown[arm].append(frame[:, :h, :w].contiguous())
    told = meter.figures()
    rate = 8 * size / clip.seconds / 1000
    curves[arm].append(
        {"crf": crf, "kbit/s": rate, "bytes": size, "stream": size if stream is None else stream, **told}
    )


def _break_even(curves: Mapping[str, Sequence[Mapping[str, float]]], seconds: float) -> float | None:
    """T at which stream + networks / T costs what the codec at full size does, at the middle of what both reach."""
    native = [(p["kbit/s"], p["psnr y"]) for p in curves[NATIVE]]
    stream = [(8 * p["stream"] / seconds / 1000, p["psnr y"]) for p in curves[OURS]]
    ends = [[q for _, q in side] for side in (native, stream)]
    quality = (max(map(min, ends)) + min(map(max, ends))) / 2
    full, small = rate_at(native, quality), rate_at(stream, quality)
    if full is None or small is None or small >= full:
        return None
    extra = max(p["bytes"] - p["stream"] for p in curves[OURS])
    return 8 * extra / 1000 / (full - small)


def _crops(
    clip: Clip, curves: Mapping[str, Sequence[Mapping[str, float]]], shown: Mapping[str, Sequence[Tensor]]
) -> dict[str, str]:
    """The most detailed part of the middle frame, from each arm at the bits nearest to the networks' middle point."""
    import base64

    from ..report.images import png

    wanted = clip.frames[len(clip) // 2]
    side_y, side_x = (min(128, s) for s in clip.size)
    y = wanted.float().mean(0)
    detail = y.diff(dim=0)[:, :-1].abs() + y.diff(dim=1)[:-1].abs()
    rows, columns = max(1, detail.shape[0] - side_y + 1), max(1, detail.shape[1] - side_x + 1)
    places = [(i, j) for i in range(0, rows, 16) for j in range(0, columns, 16)]
    top, left = max(
        places, key=lambda at: float(detail[at[0] : at[0] + side_y, at[1] : at[1] + side_x].sum())
    )

    def cut(frame: Tensor) -> str:
        part = frame[:, top : top + side_y, left : left + side_x].float() / 255
        return base64.b64encode(png(part)).decode()

    rate = curves[OURS][len(curves[OURS]) // 2]["kbit/s"]
    nearest: Callable[[str], int] = lambda arm: min(  # noqa: E731
        range(len(curves[arm])), key=lambda i: abs(math.log(curves[arm][i]["kbit/s"] / rate))
    )
    found = {"original": cut(wanted)}
    for arm in curves:
        at = nearest(arm)
        found[f"{arm}, {curves[arm][at]['kbit/s']:.0f} kbit/s, {curves[arm][at]['psnr y']:.2f} dB"] = cut(
            shown[arm][at]
        )
    return found


def _has_vmaf() -> bool:
    from av.filter import filters_available

    return "libvmaf" in filters_available
