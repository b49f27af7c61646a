"""Restore one file with a trained network: read, restore, write, read back."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, Self

import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor

from ..errors import InputError
from ..io.files import sha256, strict_json, write_text
from ..io.signals import Signal, read_signal, suffixes, write_signal
from ..random import seeded
from ..restore import load_restorer
from ..settings import settings
from .done import Done

RECORD = ".json"
"""Added to the name of what was written, for its record."""


@dataclass(frozen=True)
class Restored(Done):
    """A restored file.

    Attributes:
        record: what was done in a sentence, input, weights, method, options, sizes, seconds, hashes, as plain JSON.
    """

    record: Mapping[str, Any]

    @property
    def file(self) -> Path:
        """What was written."""
        return Path(self.record["output"])

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the record beside a restored file, of that name with .json after it."""
        import json

        return cls(folder.parent, json.loads(folder.read_text(encoding="utf-8")))

    def json(self) -> str:
        """The record as strict JSON."""
        return strict_json(dict(self.record))

    def tell(self, out: Console) -> None:
        """Print what was done."""
        told = self.record
        out.print(f"{told['lead']}, in {told['seconds']:.1f} s.", markup=False)
        for line in told["notes"]:
            out.print(line, markup=False)
        out.print(f"Written and read back: {told['output']}", markup=False)


@settings
class RestoreJob:
    """Restore one picture, cube, stack or sound.

    Attributes:
        input: the file.
        weights: of a network, as `save_restorer` or `unweave restore --train` writes them.
        method: what the weights must be of; whatever they are of unless given.
        options: of the network's `restore`, such as scale, knob, tile, steps; what it does not take is refused.
        mask: picture of the holes, white there, for a network that fills them.
        peak: largest value that the input can hold; its type's unless given.
        seed: of networks that draw.
    """

    input: Path
    weights: Path
    method: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    mask: Path | None = None
    peak: float | None = None
    seed: int = 0

    def plan(self) -> dict[str, Any]:
        """What is to be done, as plain JSON."""
        return {"options": dict(self.options), "peak": self.peak, "seed": self.seed}

    def run(self, out: Path | str | None = None, *, command: Sequence[str] = ()) -> Restored:
        """Restore, write and read back.

        Args:
            out: file to write; beside the input, with -restored in its name, unless given.
            command: as the user typed it.

        Raises:
            InputError: if input, weights and options do not go together.
            StorageError: if it cannot be written.
        """
        net = load_restorer(self.weights)
        if self.method and self.method != net.method:
            raise InputError(
                f"{self.weights} are weights of {net.method}, not of {self.method}. Leave --method out."
            )
        signal = read_signal(self.input, net.reads, channels=_channels(net), peak=self.peak)
        path = Path(out) if out is not None else self._named(signal)
        if path.suffix.lower() not in suffixes(signal.kind):
            raise InputError(
                f"a {signal.kind} is written to {' or '.join(suffixes(signal.kind))}, which keep every value; got "
                f"{path.name!r}."
            )
        if path.resolve() == Path(self.input).resolve():
            raise InputError(f"{path} is the input itself. Name another file (--out).")
        began = perf_counter()
        made = self._restored(net, signal)
        seconds = perf_counter() - began
        lost = write_signal(made, path)
        files = {"input": Path(self.input), "weights": Path(self.weights), "output": path}
        record = {
            "lead": f"{self.input}, {_shown(signal)}, restored by {net.method}: {_shown(made)}",
            "input": str(self.input), "output": str(path), "method": net.method, "weights": str(self.weights),
            "read": _shown(signal), "made": _shown(made), "seconds": round(seconds, 3), **self.plan(),
            "notes": [f"{lost}."] if lost else [], "command": list(command),
            "sha256": {name: sha256(file) for name, file in files.items()},
        }  # fmt: skip
        write_text(path.with_name(path.name + RECORD), strict_json(record))
        return Restored(path.parent, record)

    def _named(self, signal: Signal) -> Path:
        of = Path(self.input)
        kept = of.suffix.lower() in suffixes(signal.kind)
        return of.with_name(f"{of.stem}-restored{of.suffix if kept else suffixes(signal.kind)[0]}")

    def _restored(self, net: Any, signal: Signal) -> Signal:
        taken = inspect.signature(net.restore).parameters
        idle = [name for name in self.options if name not in taken]
        if idle:
            known = ", ".join(f"--{n}" for n in list(taken)[1:] if n not in ("rng", "mask"))
            raise InputError(
                f"--{idle[0]} would do nothing for {net.method}; it takes {known or 'no options'}."
            )
        if (self.mask is not None) != ("mask" in taken):
            needs = (
                "needs a picture of the holes" if "mask" in taken else "fills no holes, so it takes no mask"
            )
            raise InputError(f"{net.method} {needs} (--mask).")
        more = dict(self.options)
        if "rng" in taken:
            more["rng"] = seeded(self.seed)
        if self.mask is not None:
            more["mask"] = _holes(self.mask, signal.values)
        if signal.kind == "sound" and signal.rate != net.rate:
            raise InputError(
                f"{self.input} has {signal.rate} Hz; the weights are for {net.rate} Hz. Resample it, for example with "
                f"ffmpeg -i {Path(self.input).name} -ar {net.rate} out.wav."
            )
        read = signal.values
        if signal.kind == "picture" and read.shape[1] != net.channels:
            return signal.of(_other_colours(net, read, more))
        return signal.of(net.restore(read, **more))


def _channels(net: Any) -> int | None:
    return net.made.get("bands") if net.reads == "cube" else net.frames if net.reads == "stack" else None


def _holes(path: Path, like: Tensor) -> Tensor:
    mask = read_signal(path, "picture").values.mean(1, keepdim=True)
    if mask.shape[2:] != like.shape[2:]:
        raise InputError(
            f"the mask {path} is {tuple(mask.shape[2:])}; the picture is {tuple(like.shape[2:])}."
        )
    if not ((mask < 0.01) | (mask > 0.99)).all():
        raise InputError(f"the mask {path} must be black and white, white in a hole; it holds greys.")
    return (mask > 0.5).float()


def _other_colours(net: Any, x: Tensor, more: Mapping[str, Any]) -> Tensor:
    """Grey through a network of colours; colours through one of luma, their chroma enlarged by bicubic."""
    if (x.shape[1], net.channels) == (1, 3):
        return net.restore(x.expand(-1, 3, -1, -1), **more).mean(1, keepdim=True)  # type: ignore[no-any-return]
    if (x.shape[1], net.channels) != (3, 1):
        raise InputError(f"{net.method} reads {net.channels} channels; the picture has {x.shape[1]}.")
    matrix = torch.tensor([
        [0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]
    ])  # fmt: skip
    planes = torch.einsum("ij,njyx->niyx", matrix, x)
    luma = net.restore(planes[:, :1].clamp(0, 1), **more)
    chroma = F.interpolate(planes[:, 1:], luma.shape[2:], mode="bicubic", align_corners=False)
    back = torch.einsum("ij,njyx->niyx", torch.linalg.inv(matrix), torch.cat([luma, chroma], 1))
    return back.clamp(0, 1)


def _shown(signal: Signal) -> str:
    size = list(signal.values.shape[1:])
    if signal.kind == "sound":
        return f"{size[0] / signal.rate:.2f} s at {signal.rate} Hz"
    return f"{size[1]} x {size[2]}" + (f", {size[0]} {'bands' if signal.kind == 'cube' else 'channels'}")
