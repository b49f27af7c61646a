"""Read a delivery as it comes: networks, labels and packets in the order of the file, frames out in order.

Memory is bounded: one segment of packets, the label maps of the segments under way, the networks and a frame or two.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn import Module

from ...errors import InputError, IntegrityError
from .codec import decode
from .coding import State, lengthened, read_labels, read_weights
from .delivery import VERSION, fitting, lay_out, remade, state_digest
from .packets import Packet, unpacked
from .upscale import Backend, Runs, Upscaler, on_onnxruntime, on_torch


@dataclass
class Reader:
    """Iterate once: frames in order, uint8 RGB [3, height, width].

    Attributes:
        manifest: of the container.
        parts: (name, bytes) in the order of the file; read no further than needed.
        backend: what runs the networks. "torch" on the processor gives the encoder's own reconstruction, bit for bit.
        device: of torch.
        threads: of ONNX Runtime; 0 leaves the choice to it.
        general: the network that the delivery was made upon, where it was.
        heard: told (packets of sound) as they come.
        times: when each frame is shown, in units of the manifest's base; known once the first frame is out.
        head: the track of sound's description; "" without sound.
        exact: at the end, whether all frames were the encoder's own; None before.
    """

    manifest: Mapping[str, Any]
    parts: Iterator[tuple[str, bytes]] = field(repr=False)
    backend: Backend = "torch"
    device: str = "cpu"
    threads: int = 0
    general: Module | None = None
    heard: Callable[[tuple[Packet, ...]], None] | None = None
    times: tuple[int, ...] = ()
    head: bytes = b""
    exact: bool | None = None

    def __post_init__(self) -> None:
        if self.manifest.get("version") != VERSION:
            raise InputError(
                f"this delivery is of version {self.manifest.get('version')!r}; this program reads version {VERSION}."
            )
        if self.backend == "onnxruntime" and self.device != "cpu":
            raise InputError(
                "device would do nothing with backend='onnxruntime', which runs on the processor."
            )
        asked = self.manifest["general"]
        if asked is not None and (self.general is None or state_digest(self.general) != asked):
            raise InputError(
                f"this delivery tells only how its networks differ from a general one, whose digest is {asked}. Give "
                "that one as `general`."
            )
        self._nets: list[Runs] = []
        self._before: State | None = None
        self._labels: dict[int, Tensor] = {}
        self._last: Tensor | None = None

    @property
    def base(self) -> Fraction:
        """Seconds a unit of `times`."""
        return Fraction(*self.manifest["base"])

    def __len__(self) -> int:
        return int(self.manifest["frames"])

    def __iter__(self) -> Iterator[Tensor]:
        h, w = self.manifest["size"]
        digest, n = hashlib.sha256(), 0
        for n, low in enumerate(decode(self._segments(), self.manifest["codec"]), 1):
            if n > len(self):
                raise IntegrityError(
                    f"the stream holds more than the {len(self)} frames that the manifest tells of."
                )
            restored = self._restored(low, self._labels_of(n - 1))[:, :h, :w].contiguous()
            digest.update(restored.numpy().tobytes())
            yield restored
        if n != len(self):
            raise IntegrityError(f"the stream holds {n} frames; the manifest tells of {len(self)}.")
        self.exact = digest.hexdigest() == self.manifest["digest"]

    def _segments(self) -> Iterator[tuple[Packet, ...]]:
        grid, gop = lay_out(self.manifest), self.manifest["gop"]
        for name, data in self.parts:
            kind, _, at = name.partition("/")
            if kind == "times":
                self.times = _times(data, len(self))
            elif kind == "net":
                self._nets.append(self._net(int(at), data))
            elif kind == "labels":
                first = int(at) * gop
                shape = (min(gop, len(self) - first), *grid.shape)
                self._labels[int(at)] = read_labels(data, shape, self._last)
                self._last = self._labels[int(at)][-1]
            elif kind == "stream":
                yield unpacked(data)
            elif name == "audio/head":
                self.head = data
            elif kind == "audio" and self.heard is not None:
                self.heard(unpacked(data))

    def _labels_of(self, frame: int) -> Tensor:
        segment, at = divmod(frame, self.manifest["gop"])
        self._labels.pop(segment - 1, None)
        return self._labels[segment][at]

    def _restored(self, low: Tensor, labels: Tensor) -> Tensor:
        told = self.manifest
        if int(labels.max()) >= len(self._nets):
            raise IntegrityError(
                f"a label names network {int(labels.max())}; {len(self._nets)} have come before it."
            )
        return Upscaler(lay_out(told), told["scale"], self._nets, told["spans"], told["halo"])(low, labels)

    def _net(self, c: int, data: bytes) -> Runs:
        told = self.manifest
        net = remade(told["nets"][c], told["scale"])
        shapes = {name: tuple(t.shape) for name, t in net.state_dict().items()}
        shared = (
            None if self.general is None else {n: t.float() for n, t in self.general.state_dict().items()}
        )
        chained = told["chained"] and self._before is not None
        reference = self._before if chained else fitting(shared, net.state_dict())
        state = read_weights(data, shapes, told["precision"], reference)
        net.load_state_dict(state)
        self._before = state
        if self.backend == "torch":
            return on_torch(net, self.device)
        span, halo = told["spans"][c], told["halo"]
        rows, columns = (side * span + 2 * halo for side in told["cell"])
        return on_onnxruntime(net, (rows, columns), self.threads)


def _times(data: bytes, count: int) -> tuple[int, ...]:
    gaps = np.cumsum(np.frombuffer(lengthened(data), "<i8"))
    if len(gaps) != count:
        raise IntegrityError(f"times of {len(gaps)} frames are there; the manifest tells of {count}.")
    return tuple(np.cumsum(gaps).tolist())
