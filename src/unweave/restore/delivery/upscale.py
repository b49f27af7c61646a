"""From a low-resolution frame, its label map and the networks to the frame: the one function of encoder and reader."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import Module

from ...errors import require
from .overfitted import cropped
from .patches import Grid, bytes_of

Backend = Literal["torch", "onnxruntime"]
Runs = Callable[[Tensor], Tensor]
MOST_PIXELS = 2**18
"""Low-resolution pixels that go through a network at once: bounds the memory, whatever the size of a frame."""


@dataclass(frozen=True)
class Upscaler:
    """Restores frames.

    Attributes:
        grid: of the cells of a low-resolution frame.
        scale: 2, 3 or 4.
        nets: patches [n, 3, h, w] -> [n, 3, scale h, scale w].
        spans: cells a side that each network restores at once.
        halo: pixels around each patch.
    """

    grid: Grid
    scale: int
    nets: Sequence[Runs]
    spans: Sequence[int]
    halo: int = 0

    @torch.no_grad()
    def __call__(self, low: Tensor, labels: Tensor) -> Tensor:
        """Restore one frame.

        Args:
            low: uint8 [3, h, w].
            labels: uint8 [rows, columns].

        Returns:
            uint8 [3, scale h, scale w]; always the same bits for the same networks on the same machine.
        """
        grid, s, halo = self.grid, self.scale, self.halo
        widest = max(self.spans)
        gh, gw = (-(-side // widest) * widest for side in grid.shape)
        room = (
            Grid(grid.height, grid.width, gh * grid.rows, gw * grid.columns).extended(low, halo).float() / 255
        )
        canvas = torch.empty(3, gh * grid.rows * s, gw * grid.columns * s, dtype=torch.uint8)
        for c in sorted(set(labels.flatten().tolist())):
            span = self.spans[c]
            rows, columns = grid.rows * span, grid.columns * span
            where = (labels[::span, ::span] == c).nonzero().tolist()
            most = max(1, MOST_PIXELS // ((rows + 2 * halo) * (columns + 2 * halo)))
            for at in range(0, len(where), most):
                part = where[at : at + most]
                patches = torch.stack(
                    [
                        room[
                            :,
                            i * rows : (i + 1) * rows + 2 * halo,
                            j * columns : (j + 1) * columns + 2 * halo,
                        ]
                        for i, j in part
                    ]
                )
                restored = bytes_of(cropped(self.nets[c](patches), halo, s))
                for (i, j), patch in zip(part, restored, strict=True):
                    top, left = i * rows * s, j * columns * s
                    canvas[:, top : top + rows * s, left : left + columns * s] = patch
        return canvas[:, : grid.height * s, : grid.width * s]


def on_torch(net: Module, device: str = "cpu") -> Runs:
    """A network as it runs in torch, answers back on the processor."""
    net = net.to(device).eval()

    def run(patches: Tensor) -> Tensor:
        out: Tensor = net(patches.to(device)).cpu()
        return out

    return run


def on_onnxruntime(net: Module, size: tuple[int, int], threads: int = 0) -> Runs:
    """A network as it runs in ONNX Runtime on the processor, for patches of one size and any number.

    Args:
        net: on the processor.
        size: height and width of a patch with its halo.
        threads: 0 leaves the choice to ONNX Runtime.

    Raises:
        MissingExtraError: if onnx, onnxscript or onnxruntime is absent.
    """
    from ...io.onnx import export_onnx

    runtime: Any = require("onnxruntime", extra="onnx", purpose="playing by ONNX Runtime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    with TemporaryDirectory() as folder:
        file = export_onnx(net, torch.zeros(2, 3, *size), Path(folder) / "net.onnx", check=False)
        session = runtime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    def run(patches: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {"input": patches.numpy()})[0])

    return run
