"""What every method of delivery is given and gives: a clip as its reader has it, and networks overfitted to it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Generator, Tensor
from torch.nn import Module
from torch.optim import Adam
from torch.optim.lr_scheduler import CosineAnnealingLR

from ...fit import Fit, Loop, Step, fit_, steps_of
from ...masks.mask import Mask
from ...random import draw_seed, global_seed
from .backbones import Backbone
from .patches import Batch, Grid, Patches

LAST_LR = 4e-8
"""What the learning rate falls to, along a cosine."""


@dataclass(frozen=True)
class Source:
    """A clip as a method sees it.

    Attributes:
        low: uint8 [frames, 3, h, w], as decoded from the stream that is sent.
        high: uint8 [frames, 3, scale h, scale w], what should come out.
        scale: 2, 3 or 4.
        rate: frames a second.
        general: a network that the reader has already, or None.
    """

    low: Tensor = field(repr=False)
    high: Tensor = field(repr=False)
    scale: int
    rate: float = 25.0
    general: Module | None = None

    def grid(self, rows: int, columns: int | None = None) -> Grid:
        """Cells of `rows` x `columns` low-resolution pixels."""
        return Grid(self.low.shape[2], self.low.shape[3], rows, columns or rows)

    def patches(
        self, grid: Grid, chosen: Tensor, *, span: int = 1, halo: int = 0, batch_size: int = 16
    ) -> Patches:
        """The patches at chosen cells.

        Args:
            grid: of the cells.
            chosen: bool [frames, rows, columns]; with a span, of each block the cell at its top left is read.
            span: cells a side of a patch.
            halo: pixels around.
            batch_size: of what is read.
        """
        where = chosen.nonzero()
        if span > 1:
            where = where[(where[:, 1:] % span == 0).all(1)]
        places = where * torch.tensor([1, grid.rows, grid.columns])
        s, (gh, gw) = self.scale, (-(-n // span) * span for n in grid.shape)
        low = Grid(grid.height, grid.width, gh * grid.rows, gw * grid.columns)
        high = Grid(grid.height * s, grid.width * s, low.rows * s, low.columns * s)
        size = (grid.rows * span, grid.columns * span)
        return Patches(
            low.extended(self.low, halo), high.extended(self.high), places, size, s, halo, batch_size
        )


@dataclass(frozen=True)
class Overfitted:
    """Networks overfitted to a clip, and which cell each of them restores.

    Attributes:
        backbones: says how each network is made again.
        nets: their weights; weight norm folded.
        labels: uint8 [frames, rows, columns]: the network of each cell.
        cell: height and width of a cell in low-resolution pixels.
        spans: cells a side that each network restores at once; blocks begin at multiples of it.
        halo: pixels around each patch that a network sees too.
        chained: each network is best told by what differs from the one before.
        figures: what a method has to say, name -> number.
    """

    backbones: tuple[Backbone, ...]
    nets: tuple[Module, ...]
    labels: Tensor = field(repr=False)
    cell: tuple[int, int]
    spans: tuple[int, ...] = ()
    halo: int = 0
    chained: bool = False
    figures: Mapping[str, float] = field(default_factory=dict)


class Overfits(Protocol):
    """A method of delivery."""

    def overfit(self, source: Source, *, rng: Generator) -> Overfitted:
        """Train networks on the clip."""
        ...

    def weights(self, source_frames: int, rate: float, scale: int) -> int:
        """How many numbers will be sent, at most: known before anything is trained."""
        ...


def built(backbone: Backbone, scale: int, rng: Generator, general: Module | None = None) -> Module:
    """A new network of a backbone, or one that begins where the general network is."""
    with global_seed(draw_seed(rng)):
        net = backbone.build(scale)  # type: ignore[arg-type]
    if general is not None:
        net.load_state_dict(general.state_dict())
    return net


def cropped(out: Tensor, halo: int, scale: int) -> Tensor:
    """A network's answer without what the halo became."""
    edge = halo * scale
    return out[..., edge : out.shape[-2] - edge, edge : out.shape[-1] - edge] if edge else out


def overfit_(
    net: Module, patches: Patches, *, steps: int, lr: float, rng: Generator, label: str,
    forward: Callable[[Module, Batch], Tensor] | None = None,
    loss: Callable[[Tensor, Tensor], Tensor] | None = None, only: Mask | None = None,
) -> Fit:  # fmt: skip
    """Minimise the mean absolute error over patches, in place: Adam, the learning rate along a cosine to 4e-8.

    Args:
        net: pictures -> enlarged pictures.
        patches: to train on.
        steps: of the optimiser.
        lr: first learning rate.
        rng: governs the order.
        label: beside the progress bar.
        forward: (net, batch) -> prediction without halo; the net on the low-resolution patches unless given.
        loss: (prediction, wanted) -> scalar; the mean absolute error unless given.
        only: weights that may move; all unless given.
    """
    optimizer = Adam(net.parameters(), lr, betas=(0.9, 0.999), eps=1e-8)
    loop = Loop(schedule=CosineAnnealingLR(optimizer, steps, LAST_LR), label=label)

    def error(model: Module, batch: Batch) -> Tensor:
        low, high, _ = batch
        out = cropped(model(low), patches.halo, patches.scale) if forward is None else forward(model, batch)
        return (out - high).abs().mean() if loss is None else loss(out, high)

    def stop(step: Step) -> None:
        step.stop = step.index >= steps

    epochs = math.ceil(steps / steps_of(net, patches, loop))
    return fit_(net, patches, error, optimizer, epochs=epochs, rng=rng, loop=loop, after_step=stop, only=only)


def count(net: Module) -> int:
    """Numbers in its parameters."""
    return sum(p.numel() for p in net.parameters())
