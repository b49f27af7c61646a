"""Frames cut into patches without losing a border, scored, split into groups, and read in batches to train on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from ...errors import InputError
from .backbones import Bicubic

Scorer = Literal["bicubic", "gradient", "general"]
Split = Literal["psnr", "time", "random", "none"]
Batch = tuple[Tensor, Tensor, Tensor]
"""Low-resolution patches, high-resolution patches, and the frame of each."""


def extended(frames: Tensor, top: int, bottom: int, left: int, right: int) -> Tensor:
    """Frames [..., h, w] of any dtype with the outermost rows and columns repeated outwards."""
    rows = torch.arange(-top, frames.shape[-2] + bottom).clamp(0, frames.shape[-2] - 1)
    columns = torch.arange(-left, frames.shape[-1] + right).clamp(0, frames.shape[-1] - 1)
    return frames.index_select(-2, rows).index_select(-1, columns)


def padded_to(frames: Tensor, multiple: int) -> Tensor:
    """Frames [..., h, w] with the last row and column repeated until both sides are a multiple."""
    h, w = frames.shape[-2:]
    return extended(frames, 0, -h % multiple, 0, -w % multiple) if h % multiple or w % multiple else frames


def smaller(frames: Tensor, scale: int) -> Tensor:
    """uint8 frames [n, 3, h, w], sides multiples of `scale`, made smaller: bicubic, antialiased, rounded."""
    parts = [
        F.interpolate(part.float(), scale_factor=1 / scale, mode="bicubic", antialias=True)
        for part in torch.split(frames, 16)
    ]
    return torch.cat([part.round().clamp(0, 255).byte() for part in parts])


def bytes_of(pictures: Tensor) -> Tensor:
    """Pictures from 0 to 1 as uint8: rounded and clamped."""
    return (pictures * 255).round().clamp(0, 255).byte()


@dataclass(frozen=True)
class Grid:
    """Cells of a low-resolution frame, row by row; those at the end reach past it.

    Attributes:
        height: of a frame, in pixels.
        width: of a frame.
        rows: height of a cell.
        columns: width of a cell.
    """

    height: int
    width: int
    rows: int
    columns: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of cells."""
        return -(-self.height // self.rows), -(-self.width // self.columns)

    def extended(self, frames: Tensor, halo: int = 0) -> Tensor:
        """Frames [..., height, width] until every cell is whole, and `halo` more on every side."""
        gh, gw = self.shape
        down, right = gh * self.rows - self.height, gw * self.columns - self.width
        return extended(frames, halo, down + halo, halo, right + halo)


@dataclass(frozen=True)
class Patches:
    """Pairs of patches of a clip, cut when they are read: what `fit_` trains on.

    Attributes:
        low: uint8 [frames, 3, h + 2 halo, w + 2 halo].
        high: uint8 [frames, 3, scale h, scale w].
        places: [n, 3]: frame, row and column of each patch's first low-resolution pixel, without the halo.
        size: height and width of a patch.
        scale: between the two.
        halo: pixels around each low-resolution patch.
        batch_size: patches a batch; the last batch may be smaller, none is left out.
    """

    low: Tensor = field(repr=False)
    high: Tensor = field(repr=False)
    places: Tensor = field(repr=False)
    size: tuple[int, int]
    scale: int
    halo: int = 0
    batch_size: int = 16

    def __len__(self) -> int:
        return len(self.places)

    def batches(
        self,
        rng: Generator | None = None,
        *,
        start: int = 0,
        part: tuple[int, int] = (0, 1),
        join: bool = False,
    ) -> Iterator[Batch]:
        """Low [n, 3, rows + 2 halo, columns + 2 halo], high [n, 3, scale rows, scale columns] and frame [n] of batches.

        Pixels are from 0 to 1.
        """
        n = len(self)
        order = torch.arange(n) if rng is None else torch.randperm(n, generator=rng)
        chunks = list(torch.split(order, self.batch_size))
        if join and len(chunks) > 1 and len(chunks[-1]) == 1 < self.batch_size:
            chunks[-2:] = [torch.cat(chunks[-2:])]
        for at in chunks[start:]:
            mine = at.tensor_split(part[1])[part[0]] if part[1] > 1 else at
            yield self.read(mine if len(mine) else at[:1])

    def read(self, at: Tensor) -> Batch:
        """The patches at these positions."""
        (rows, columns), s, wide = self.size, self.scale, 2 * self.halo
        chosen = self.places[at]
        places = chosen.tolist()
        low = [self.low[t, :, i : i + rows + wide, j : j + columns + wide] for t, i, j in places]
        high = [self.high[t, :, s * i : s * (i + rows), s * j : s * (j + columns)] for t, i, j in places]
        return torch.stack(low).float() / 255, torch.stack(high).float() / 255, chosen[:, 0]


def bicubic(frames: Tensor, scale: int) -> Iterator[Tensor]:
    """uint8 frames [n, 3, h, w] enlarged one by one, uint8 [3, scale h, scale w]."""
    enlarge = Bicubic(scale)
    for frame in frames:
        yield bytes_of(enlarge(frame[None].float() / 255))[0]


def scores(
    low: Tensor, high: Tensor, grid: Grid, scale: int, scorer: Scorer, general: torch.nn.Module | None = None
) -> Tensor:
    """How well each cell is restored without a network of its own, float64 [frames, rows, columns]; low is hard.

    Args:
        low: uint8 [frames, 3, h, w].
        high: uint8 [frames, 3, scale h, scale w].
        grid: of the cells.
        scale: between the two.
        scorer: "bicubic" and "general" give the PSNR in dB of interpolation or of a general network, over whole
            frames in RGB, 8-bit, infinite where a cell is exact; "gradient" gives minus the mean absolute difference of
            neighbouring pixels of `high`, which needs no restoration.
        general: the network.
    """
    h, w = high.shape[-2:]
    inside = torch.zeros(1, grid.shape[0] * grid.rows * scale, grid.shape[1] * grid.columns * scale)
    inside[:, :h, :w] = 1
    counts = _cells(inside, grid, scale)
    found = []
    for t in range(len(low)):
        if scorer == "gradient":
            x = high[t].double().mean(0, keepdim=True)
            error = x.diff(dim=1, prepend=x[:, :1]).abs() + x.diff(dim=2, prepend=x[:, :, :1]).abs()
        else:
            if scorer == "bicubic" or general is None:
                restored = next(bicubic(low[t : t + 1], scale))
            else:
                with torch.no_grad():
                    restored = bytes_of(general(low[t : t + 1].float() / 255))[0]
            error = ((restored.double() - high[t].double()) / 255).square().mean(0, keepdim=True)
        room = torch.zeros_like(inside, dtype=torch.float64)
        room[:, :h, :w] = error
        mean = _cells(room, grid, scale) / counts
        found.append(-mean[0] if scorer == "gradient" else -10 * torch.log10(mean[0]))
    return torch.stack(found)


def _cells(pictures: Tensor, grid: Grid, scale: int) -> Tensor:
    """Sums over cells of [n, rows of all cells, columns of all cells]."""
    gh, gw = grid.shape
    return pictures.view(len(pictures), gh, grid.rows * scale, gw, grid.columns * scale).sum((2, 4))


def by_quantile(values: Tensor, k: int) -> Tensor:
    """Groups of equal size by value, 0 the lowest: label(p) = smallest c with q_p <= sorted(q)[floor((c+1) n/k) - 1].

    Ties fall to the lower group.

    Raises:
        InputError: if there are more groups than values, or a group stays empty since values are equal.

    Example:
        >>> by_quantile(torch.tensor([3.0, 1.0, float("inf"), 2.0]), 2).tolist()
        [1, 0, 1, 0]
    """
    flat = values.flatten()
    n = len(flat)
    if k > n:
        raise InputError(f"{n} patches cannot be split into k={k} groups. Give a smaller k or smaller cells.")
    ordered = flat.sort().values
    ends = ordered[torch.tensor([(c + 1) * n // k - 1 for c in range(k)])].contiguous()
    labels = torch.searchsorted(ends, flat.contiguous(), side="left").clamp(max=k - 1)
    empty = k - len(set(labels.tolist()))
    if empty:
        raise InputError(
            f"nothing to split: {empty} of k={k} groups would be empty, for many patches are restored equally "
            f"well (a still or "
            "plain clip). Give a smaller k, k=1 say."
        )
    return labels.view(values.shape).to(torch.uint8)


def split_labels(
    split: Split, k: int, shape: tuple[int, int, int], values: Tensor | None, rng: Generator
) -> Tensor:
    """A label for every cell, uint8 [frames, rows, columns].

    Args:
        split: "psnr" by `values`; "time" in k stretches of frames; "random" in equal groups; "none" all 0.
        k: groups.
        shape: frames, rows and columns.
        values: of `scores`, for "psnr".
        rng: for "random".

    Raises:
        InputError: if there are fewer cells, or frames, than groups.
    """
    if split == "none" or k == 1:
        return torch.zeros(shape, dtype=torch.uint8)
    if split == "time":
        if k > shape[0]:
            raise InputError(
                f"{shape[0]} frames cannot be split into k={k} stretches of time. Give a smaller k."
            )
        when = torch.arange(shape[0]) * k // shape[0]
        return when.view(-1, 1, 1).expand(shape).to(torch.uint8).contiguous()
    if split == "random":
        return by_quantile(
            torch.randperm(shape[0] * shape[1] * shape[2], generator=rng).double().view(shape), k
        )
    if values is None:
        raise InputError("split='psnr' needs scores.")
    return by_quantile(values, k)
