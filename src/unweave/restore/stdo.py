"""STDO and JSTDO: patches of a whole clip grouped by how hard they are, one small network overfitted to each group.

Li, Ji et al., Towards High-Quality and Efficient Video Super-Resolution via Spatial-Temporal Data Overfitting, CVPR
2023, arXiv 2303.08331. Every frame is cut into cells; q is the PSNR of each cell as something general restores it;
cells are sorted by q into k groups of equal size; each group gets a network trained on nothing but it. JSTDO trains one
network on all of the hardest group, none of the easiest, and a falling share of those between.

Where the paper leaves a choice: cells are square, and frames that they do not divide are extended instead of refused
or cut; the scorer is interpolation, which costs nothing, or a general network at hand; the shares of JSTDO are 1 - c
/ (k - 1), for the paper prints none; a last batch that is not full is trained on; weights after the last step are
kept (the learning rate has fallen to 4e-8 by then); patches come from the decoded stream, since that is what a
reader has.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Generator, Tensor
from torch.nn import Module

from ..errors import InputError
from ..paper import Paper
from ..random import child
from ..settings import Count, Positive, Share, Whole, refuse_idle, settings
from .delivery.backbones import Backbone, folded
from .delivery.overfitted import Overfitted, Source, built, count, overfit_
from .delivery.patches import Patches, Scorer, Split, scores, split_labels

LR = {"wdsr": 1e-3}
"""Backbone -> the paper's learning rate; 1e-4 for the others."""


@settings
class STDO:
    """Overfit one small network to each group of equally hard patches of a clip.

    Attributes:
        k: groups, and so networks; 2, 4 or 6 in the paper, for longer clips more.
        cell: side of a patch in low-resolution pixels (the paper's are 48 x 54 and 64 x 60).
        split: how patches are grouped: by "psnr" (the paper's), in stretches of "time", at "random"; "none" is one
            group.
        scorer: what restores them for the score; "gradient" looks at differences of neighbouring pixels instead.
        joint: JSTDO: one network for all, trained on hard patches above all.
        fractions: of JSTDO: share of each group that is trained on, hardest first; 1 - c / (k - 1) unless given.
        backbone: of every network.
        epochs: passes of each network over its patches.
        steps: of the optimiser, of all networks together and divided equally among them; instead of epochs.
        lr: first learning rate; 1e-3 for wdsr and 1e-4 for the others unless given, as in the paper.
        batch_size: patches a step.
        halo: pixels around each patch that a network sees too, against seams; none in the paper.
    """

    k: Count = 2
    cell: Count = 48
    split: Split = "psnr"
    scorer: Scorer = "bicubic"
    joint: bool = False
    fractions: tuple[Share, ...] | None = None
    backbone: Backbone = Backbone()
    epochs: Count = 50
    steps: Count | None = None
    lr: Positive | None = None
    batch_size: Count = 16
    halo: Whole = 0

    paper: ClassVar[Paper] = Paper(
        title="Towards High-Quality and Efficient Video Super-Resolution via Spatial-Temporal Data Overfitting",
        authors="Li, Ji, Qin, Niu, Ren, Afghah, Guo, Ma",
        venue="CVPR",
        year=2023,
        arxiv="2303.08331",
    )

    def __post_init__(self) -> None:
        if self.split == "none":
            refuse_idle(self, "k", when="with split='none', which is one group")
        if self.split != "psnr":
            refuse_idle(self, "scorer", when=f"with split={self.split!r}")
        if self.steps is not None:
            refuse_idle(self, "epochs", when="beside steps")
        if not self.joint:
            refuse_idle(self, "fractions", when="without joint")
        elif self.split != "psnr" or self.k < 2:
            raise InputError(
                "STDO.joint needs split='psnr' and k of at least 2: it favours the hardest group."
            )
        if self.fractions is not None and (len(self.fractions) != self.k or not any(self.fractions)):
            raise InputError(
                f"STDO.fractions must be k={self.k} shares, one of them above 0; got {self.fractions!r}."
            )

    @classmethod
    def jstdo(cls, **fields: object) -> STDO:
        """JSTDO: one network and no label map; k of 4 unless given."""
        return cls(**{"k": 4, "joint": True, **fields})  # type: ignore[arg-type]

    @property
    def groups(self) -> int:
        """Groups that patches are split into."""
        return 1 if self.split == "none" else self.k

    def weights(self, frames: int, rate: float, scale: int) -> int:
        """How many numbers will be sent."""
        with torch.random.fork_rng(devices=[]):
            net = folded(self.backbone.build(scale))  # type: ignore[arg-type]
        return count(net) * (1 if self.joint else self.groups)

    def overfit(self, source: Source, *, rng: Generator) -> Overfitted:
        """Train on a clip.

        Raises:
            InputError: if patches cannot be split into k groups, or a general network is asked for and not given.
        """
        if self.scorer == "general" and source.general is None:
            raise InputError("STDO.scorer='general' needs a general network; none was given.")
        grid = source.grid(self.cell)
        values = None
        if self.split == "psnr" and self.k > 1:
            values = scores(source.low, source.high, grid, source.scale, self.scorer, source.general)
        shape = (len(source.low), *grid.shape)
        labels = split_labels(self.split, self.k, shape, values, rng)
        chosen = [self._shared(labels, rng)] if self.joint else [labels == c for c in range(self.groups)]
        nets = []
        for c, where in enumerate(chosen):
            patches = source.patches(grid, where, halo=self.halo, batch_size=self.batch_size)
            nets.append(
                self._net(source, patches, len(chosen), f"network {c + 1} of {len(chosen)}", child(rng))
            )
        if self.joint:
            labels = torch.zeros_like(labels)
        return Overfitted(
            (self.backbone,) * len(nets),
            tuple(nets),
            labels,
            (self.cell, self.cell),
            (1,) * len(nets),
            self.halo,
        )

    def _net(self, source: Source, patches: Patches, among: int, label: str, rng: Generator) -> Module:
        net = built(self.backbone, source.scale, rng, source.general)
        steps = self.epochs * math.ceil(len(patches) / self.batch_size)
        if self.steps is not None:
            steps = max(1, self.steps // among)
        lr = self.lr or LR.get(self.backbone.name, 1e-4)
        overfit_(net, patches, steps=steps, lr=lr, rng=rng, label=label)
        return folded(net)

    def _shared(self, labels: Tensor, rng: Generator) -> Tensor:
        """JSTDO's patches: of group c a random share r_c."""
        shares = self.fractions or tuple(1 - c / (self.k - 1) for c in range(self.k))
        chosen = torch.zeros_like(labels, dtype=torch.bool).flatten()
        for c, share in enumerate(shares):
            members = (labels.flatten() == c).nonzero().flatten()
            drawn = members[torch.randperm(len(members), generator=rng)]
            chosen[drawn[: round(share * len(members))]] = True
        return chosen.view(labels.shape)
