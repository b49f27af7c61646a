"""Dy-DCA: one delivery with several paths, light for large easy patches and heavy for small hard ones.

Li, Shu, Ji et al., Data Overfitting for On-Device Super-Resolution with Dynamic Algorithm and Compiler Co-Design,
ECCV 2024, arXiv 2407.02813. Frames are cut into coarse cells; a cell whose PSNR under something general is at most a
threshold is split into four, and so on for as many levels as there are; each level has a path of its own, all
trained on the clip. Which path runs follows from a patch's shape, which follows from the split map, so that
everything about shapes is known before a frame is run (see `plan`).

Where the paper leaves a choice: the threshold is a share of cells unless `threshold` gives the paper's 40 dB, which
on a clean clip splits nothing; steps are shared among the paths by how many patches each has, in batches of one
shape; paths are trained one after the other instead of by turns, which is the same for they share no weights; frames
that cells do not divide are extended.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from ...errors import InputError
from ...paper import Paper
from ...random import child
from ...settings import Count, Inner, Positive, Whole, refuse_idle, settings
from ..delivery.backbones import Backbone, folded
from ..delivery.overfitted import Overfitted, Source, built, count, overfit_
from ..delivery.patches import Scorer, by_quantile, scores

LR = 1e-3


@settings
class DyDCA:
    """Overfit a light path to large easy patches of a clip and a heavy one to small hard patches.

    Attributes:
        cell: side of the smallest patch in low-resolution pixels (48 x 54 in the paper; its coarse ones are twice
            that).
        levels: sizes of patches, each twice the one before; two in the released code, three in the paper's figure.
        share: of the cells of each level that are split further; those with the lowest PSNR.
        threshold: dB at or below which a cell is split, instead of a share; the paper's is 40.
        random: split as many cells, drawn at random: a control that shows whether the split map says anything.
        scorer: what restores cells for the score.
        backbone: of the heaviest path; lighter ones have half its blocks, and half again.
        epochs: passes of each path over its patches.
        steps: of the optimiser, of all paths together, shared by how many patches they have; instead of epochs.
        lr: first learning rate.
        batch_size: patches a step, all of one shape.
        halo: pixels around each patch; none in the paper.
    """

    cell: Count = 48
    levels: Count = 2
    share: Inner = 0.5
    threshold: Positive | None = None
    random: bool = False
    scorer: Scorer = "bicubic"
    backbone: Backbone = Backbone(name="wdsr", blocks=4, width=32)
    epochs: Count = 80
    steps: Count | None = None
    lr: Positive = LR
    batch_size: Count = 16
    halo: Whole = 0

    paper: ClassVar[Paper] = Paper(
        title="Data Overfitting for On-Device Super-Resolution with Dynamic Algorithm and Compiler Co-Design",
        authors="Li, Shu, Ji, Qin, Afghah, Niu, Ma",
        venue="ECCV",
        year=2024,
        arxiv="2407.02813",
    )

    def __post_init__(self) -> None:
        if self.levels < 2:
            raise InputError("DyDCA.levels must be at least 2: with one there is nothing to split.")
        if self.threshold is not None:
            refuse_idle(self, "share", when="beside threshold")
            if self.random:
                raise InputError("DyDCA.random draws a share of the cells; leave threshold out.")
        if self.steps is not None:
            refuse_idle(self, "epochs", when="beside steps")

    def path(self, level: int) -> Backbone:
        """The network of a level, 0 the heaviest (smallest patches)."""
        heavy = self.backbone
        blocks = heavy.blocks or {"wdsr": 4}.get(heavy.name, 2)
        return Backbone(
            name=heavy.name, blocks=max(1, blocks // 2**level), width=heavy.width, residual=heavy.residual
        )

    def weights(self, frames: int, rate: float, scale: int) -> int:
        """How many numbers will be sent."""
        with torch.random.fork_rng(devices=[]):
            nets = [folded(self.path(d).build(scale)) for d in range(self.levels)]  # type: ignore[arg-type]
        return sum(map(count, nets))

    def overfit(self, source: Source, *, rng: Generator) -> Overfitted:
        """Train on a clip.

        Raises:
            InputError: if a path would get no patch, or a frame has not one coarse cell of its own.
        """
        labels = self.split(source, rng)
        grid = source.grid(self.cell)
        paths = [
            source.patches(grid, labels == d, span=2**d, halo=self.halo, batch_size=self.batch_size)
            for d in range(self.levels)
        ]
        total = sum(map(len, paths))
        nets = []
        for d, patches in enumerate(paths):
            net = built(self.path(d), source.scale, rng)
            steps = self.epochs * math.ceil(len(patches) / self.batch_size)
            if self.steps is not None:
                steps = max(1, round(self.steps * len(patches) / total))
            label = f"path {d + 1} of {self.levels}"
            overfit_(net, patches, steps=steps, lr=self.lr, rng=child(rng), label=label)
            nets.append(folded(net))
        spans = tuple(2**d for d in range(self.levels))
        figures = {f"share of patches on path {d + 1}": len(p) / total for d, p in enumerate(paths)}
        backbones = tuple(map(self.path, range(self.levels)))
        cell = (self.cell, self.cell)
        return Overfitted(backbones, tuple(nets), labels, cell, spans, self.halo, figures=figures)

    def split(self, source: Source, rng: Generator) -> Tensor:
        """The level of every smallest cell, uint8 [frames, rows, columns], equal within blocks of 2^level a side.

        From the coarsest level down: cells not yet split are scored by their mean squared error, and the hardest
        share, or those at or below the threshold, are split.
        """
        grid, widest = source.grid(self.cell), 2 ** (self.levels - 1)
        if min(grid.shape) < widest:
            raise InputError(
                f"a frame of the stream has {grid.shape[0]} x {grid.shape[1]} cells; {self.levels} levels need "
                f"at least {widest} a "
                "side. Give smaller cells or fewer levels."
            )
        values = scores(source.low, source.high, grid, source.scale, self.scorer, source.general)
        down, right = (-side % widest for side in grid.shape)
        values = F.pad(values[:, None], (0, right, 0, down), mode="replicate")[:, 0]
        labels = torch.full(values.shape, self.levels - 1, dtype=torch.uint8)
        for level in range(self.levels - 1, 0, -1):
            side = 2**level
            coarse = _pooled(values, side, self.scorer)
            free = labels[:, ::side, ::side] == level
            hard = torch.zeros_like(free)
            hard[free] = self._hard(coarse[free], rng)
            if not hard.any() or hard[free].all():
                raise InputError(
                    f"{'all' if hard.any() else 'none'} of the {int(free.sum())} cells of {side * self.cell} "
                    f"pixels would be split, so "
                    f"that a path is never trained; their scores are {float(coarse[free].min()):.1f} to "
                    f"{float(coarse[free].max()):.1f}. Give a share instead of a threshold, or another one."
                )
            fine = hard.repeat_interleave(side, 1).repeat_interleave(side, 2)
            labels[fine] = level - 1
        return labels[:, : grid.shape[0], : grid.shape[1]].contiguous()

    def _hard(self, values: Tensor, rng: Generator) -> Tensor:
        """Which of the scores [n] are split."""
        if self.threshold is not None:
            return values <= self.threshold
        if len(values) < 2:
            raise InputError(
                "DyDCA: fewer than two cells are left to choose from. Give smaller cells or fewer levels."
            )
        chosen = values if not self.random else torch.randperm(len(values), generator=rng).double()
        if not self.random:
            by_quantile(chosen, 2)  # refuses scores that tell nothing apart
        hard = torch.zeros(len(values), dtype=torch.bool)
        hard[chosen.argsort(stable=True)[: max(1, round(self.share * len(values)))]] = True
        return hard


def _pooled(values: Tensor, side: int, scorer: Scorer) -> Tensor:
    """Scores of blocks: of PSNR by the mean squared error within."""
    errors = values if scorer == "gradient" else torch.pow(10, -values / 10)
    mean = F.avg_pool2d(errors[:, None], side)[:, 0]
    return mean if scorer == "gradient" else -10 * torch.log10(mean)
