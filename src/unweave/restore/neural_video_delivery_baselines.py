"""What STDO and Dy-DCA are measured against: six ways to divide, train and send networks overfitted to a clip.

awDNN (Yeo, Do, Han, HotNets 2017): one network for all. NAS (Yeo, Jung et al., OSDI 2018), as later papers take it:
one a stretch of time. CaFM (Liu et al., ICCV 2021): one network, and after its convolutions a few numbers a stretch.
EMT (Li, Liu et al., ECCV 2022): from stretch to stretch only the weights that move most. SRVC (Khani et al., ICCV
2021): the same by the largest changes of a trial, with a squared error. LiveNAS (Kim et al., SIGCOMM 2020): a
stretch is restored by what was learnt before it.

All give whole frames to a network, so that there are no seams, and train on patches of `cell` low-resolution pixels
drawn from their stretch. All take the same number of steps in all, divided equally: papers that let each network
have as many as one for the whole clip give n times the work to n networks.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from torch import Generator, Tensor
from torch.nn import Module

from ..masks.mask import Mask
from ..paper import Paper
from ..random import child
from ..settings import Count, Positive, SomeShare, settings
from .delivery.backbones import Backbone, Modulated, folded
from .delivery.overfitted import Overfitted, Source, built, count, overfit_
from .delivery.patches import Batch, Patches, bytes_of

_SMALL = Backbone(name="espcn", blocks=2, width=16, residual=True)


@settings
class _Overfitting:
    """What all of them take; one stretch of time unless a subclass says how many.

    Attributes:
        cell: side of a training patch in low-resolution pixels.
        backbone: of the network.
        steps: of the optimiser, over all stretches.
        lr: first learning rate of each training.
        batch_size: patches a step.
    """

    cell: Count = 48
    backbone: Backbone = _SMALL
    steps: Count = 2000
    lr: Positive = 1e-3
    batch_size: Count = 16

    def chunks(self, frames: int, rate: float) -> int:
        """Stretches of a clip."""
        return 1

    def weights(self, frames: int, rate: float, scale: int) -> int:
        """How many numbers will be sent, at most."""
        return _numbers(self.backbone, scale) * self.chunks(frames, rate)


@settings
class _InStretches(_Overfitting):
    """What those take that divide a clip by time.

    Attributes:
        chunk_seconds: length of a stretch of time.
    """

    chunk_seconds: Positive = 5.0

    def chunks(self, frames: int, rate: float) -> int:
        """Stretches of a clip: whole ones, the last one taking what is left over if that is less than half of one."""
        return max(1, round(frames / (self.chunk_seconds * rate)))


def _numbers(backbone: Backbone, scale: int) -> int:
    with torch.random.fork_rng(devices=[]):
        return count(folded(backbone.build(scale)))  # type: ignore[arg-type]


def _of_chunk(source: Source, how: _Overfitting, c: int, n: int, chosen: Tensor | None = None) -> Patches:
    """The patches of stretch c of n."""
    grid = source.grid(min(how.cell, *source.low.shape[2:]))
    where = _when(len(source.low), n) == c
    every = where.view(-1, 1, 1).expand(-1, *grid.shape)
    return source.patches(grid, every if chosen is None else every & chosen, batch_size=how.batch_size)


def _when(frames: int, n: int) -> Tensor:
    return torch.arange(frames) * n // frames


def _whole(
    source: Source, how: _Overfitting, nets: list[Module], n: int, *, chained: bool, **figures: float
) -> Overfitted:
    """Whole frames, each by its stretch's network."""
    labels = (_when(len(source.low), n) if len(nets) > 1 else torch.zeros(len(source.low))).to(torch.uint8)
    h, w = source.low.shape[2:]
    kinds = (how.backbone,) * len(nets)
    return Overfitted(
        kinds, tuple(map(folded, nets)), labels.view(-1, 1, 1), (h, w), chained=chained, figures=figures
    )


@settings
class AwDNN(_Overfitting):
    """Overfit one network to a whole clip.

    Attributes:
        cell: side of a training patch in low-resolution pixels.
        backbone: of the network.
        steps: of the optimiser.
        lr: first learning rate.
        batch_size: patches a step.
    """

    paper: ClassVar[Paper] = Paper(
        title="How will Deep Learning Change Internet Video Delivery?",
        authors="Yeo, Do, Han",
        venue="HotNets",
        year=2017,
    )

    def overfit(self, source: Source, *, rng: Generator) -> Overfitted:
        """Train on a clip."""
        net = built(self.backbone, source.scale, rng, source.general)
        overfit_(
            net,
            _of_chunk(source, self, 0, 1),
            steps=self.steps,
            lr=self.lr,
            rng=child(rng),
            label="one network",
        )
        return _whole(source, self, [net], 1, chained=False)


@settings
class NAS(_InStretches):
    """Overfit a network of its own to each stretch of time.

    Attributes:
        chunk_seconds: length of a stretch of time.
        cell: side of a training patch in low-resolution pixels.
        backbone: of every network.
        steps: of the optimiser, over all networks.
        lr: first learning rate of each training.
        batch_size: patches a step.
    """

    paper: ClassVar[Paper] = Paper(
        title="Neural Adaptive Content-aware Internet Video Delivery",
        authors="Yeo, Jung, Kim, Shin, Han",
        venue="OSDI",
        year=2018,
    )

    def overfit(self, source: Source, *, rng: Generator) -> Overfitted:
        """Train on a clip."""
        n = self.chunks(len(source.low), source.rate)
        nets = []
        for c in range(n):
            net = built(self.backbone, source.scale, rng, source.general)
            steps = max(1, self.steps // n)
            overfit_(
                net,
                _of_chunk(source, self, c, n),
                steps=steps,
                lr=self.lr,
                rng=child(rng),
                label=f"stretch {c + 1} of {n}",
            )
            nets.append(net)
        return _whole(source, self, nets, n, chained=False)


@settings
class CaFM(_InStretches):
    """Overfit one network to a whole clip, and a few numbers after its convolutions to each stretch of time.

    Attributes:
        chunk_seconds: length of a stretch of time.
        cell: side of a training patch in low-resolution pixels.
        backbone: of the network; modulated after every convolution but the first and the last.
        steps: of the optimiser; all stretches are trained at once, batches mix them.
        lr: first learning rate.
        batch_size: patches a step.
    """

    paper: ClassVar[Paper] = Paper(
        title="Overfitting the Data: Compact Neural Video Delivery via Content-aware Feature Modulation",
        authors="Liu, Lu, Chen, Cao, Xu, Zhang, Zhang", venue="ICCV", year=2021,
    )  # fmt: skip

    def overfit(self, source: Source, *, rng: Generator) -> Overfitted:
        """Train on a clip."""
        n = self.chunks(len(source.low), source.rate)
        sent = replace(self, backbone=replace(self.backbone, modulated=1))
        net = built(replace(self.backbone, modulated=n), source.scale, rng)
        if source.general is not None:
            net.load_state_dict(source.general.state_dict(), strict=False)
        when, steps = _when(len(source.low), n), [m for m in net.modules() if isinstance(m, Modulated)]

        def forward(model: Module, batch: Batch) -> Tensor:
            for m in steps:
                m.at = when[batch[2]]
            out: Tensor = model(batch[0])
            return out

        patches = _of_chunk(source, self, 0, 1)
        overfit_(
            net, patches, steps=self.steps, lr=self.lr, rng=child(rng), label="all stretches", forward=forward
        )
        folded(net)
        nets = []
        for c in range(n):
            own = folded(built(sent.backbone, source.scale, rng))
            state = {k: t[c : c + 1] if k.endswith(Modulated.OWN) else t for k, t in net.state_dict().items()}
            own.load_state_dict(state)
            nets.append(own)
        return _whole(source, sent, nets, n, chained=True)


def _trial(net: Module, before: dict[str, Tensor], share: float) -> Mask:
    """Of all weights of matrices the share that moved most since `before`, and every bias."""
    moved = {k: (p.detach() - before[k]).abs() for k, p in net.named_parameters()}
    matrices = {k: m for k, m in moved.items() if m.ndim > 1}
    sizes = torch.cat([m.flatten() for m in matrices.values()])
    most = torch.zeros(len(sizes), dtype=torch.bool)
    most[sizes.topk(max(1, round(share * len(sizes)))).indices] = True
    parts = dict(zip(matrices, torch.split(most, [m.numel() for m in matrices.values()]), strict=True))
    return Mask(
        {
            k: parts[k].view_as(m) if k in parts else torch.ones_like(m, dtype=torch.bool)
            for k, m in moved.items()
        }
    )


def _by_updates(
    source: Source,
    how: _Overfitting,
    rng: Generator,
    *,
    first: float,
    later: float,
    worst: float | None,
    squared: bool,
) -> Overfitted:
    """Stretch after stretch: train on trial, keep the share that moved most, go back, train those alone."""
    n = how.chunks(len(source.low), source.rate)
    net, nets = folded(built(how.backbone, source.scale, rng, source.general)), list[Module]()
    each = max(2, how.steps // n)
    kind = (lambda out, high: (out - high).square().mean()) if squared else None
    for c in range(n):
        patches = _of_chunk(source, how, c, n)
        if worst is not None:
            patches = replace(patches, places=patches.places[_hardest(net, patches, worst)])
        share = 1.0 if c == 0 and source.general is None else first if c == 0 else later
        only, left, label = None, each, f"stretch {c + 1} of {n}"
        if share < 1:
            before = {k: p.detach().clone() for k, p in net.named_parameters()}
            trial = max(1, each // 4)
            overfit_(
                net, patches, steps=trial, lr=how.lr, rng=child(rng), label=f"{label}, on trial", loss=kind
            )
            only, left = _trial(net, before, share), max(1, each - trial)
            net.load_state_dict(before, strict=False)
        overfit_(net, patches, steps=left, lr=how.lr, rng=child(rng), label=label, loss=kind, only=only)
        own = built(how.backbone, source.scale, rng)
        folded(own).load_state_dict(net.state_dict())
        nets.append(own)
    return _whole(source, how, nets, n, chained=True)


def _hardest(net: Module, patches: Patches, share: float) -> Tensor:
    """Positions of the patches that the network restores worst, by mean squared error."""
    errors = []
    with torch.no_grad():
        for low, high, _ in patches.batches():
            errors.append((bytes_of(net(low)) / 255 - high).square().mean((1, 2, 3)))
    return torch.cat(errors).argsort(descending=True, stable=True)[: max(1, round(share * len(patches)))]


@settings
class EMT(_InStretches):
    """Go from stretch to stretch by the few weights that move most, trained on the hardest patches.

    Attributes:
        chunk_seconds: length of a stretch of time.
        cell: side of a training patch in low-resolution pixels.
        backbone: of the network.
        steps: of the optimiser, over all stretches, trials included.
        lr: first learning rate of each training.
        batch_size: patches a step.
        first: share of the weights that the first stretch moves from the general network; all without one.
        later: share that each later stretch moves.
        worst: share of a stretch's patches that are trained on: those restored worst.
    """

    first: SomeShare = 0.2
    later: SomeShare = 0.01
    worst: SomeShare = 0.2

    paper: ClassVar[Paper] = Paper(
        title="Efficient Meta-Tuning for Content-aware Neural Video Delivery",
        authors="Li, Liu, Liu, Guo, Shi, Zhang, Lu, Zhang", venue="ECCV", year=2022, arxiv="2207.09691",
    )  # fmt: skip

    def overfit(self, source: Source, *, rng: Generator) -> Overfitted:
        """Train on a clip; the general network stands for the meta-learnt beginning."""
        shares = {"first": self.first, "later": self.later, "worst": self.worst}
        return _by_updates(source, self, rng, squared=False, **shares)


@settings
class SRVC(_InStretches):
    """Send what a network with kernels of its own for every block changes, stretch after stretch.

    Attributes:
        chunk_seconds: length of a stretch of time.
        cell: side of a training patch in low-resolution pixels.
        backbone: of the network; the published one predicts a kernel for every block of 5 x 5 pixels.
        steps: of the optimiser, over all stretches, trials included.
        lr: first learning rate of each training.
        batch_size: patches a step.
        share: of the weights that each stretch after the first moves: those that move most on trial.
    """

    chunk_seconds: Positive = 10.0
    backbone: Backbone = Backbone(name="srvc", blocks=1, width=8)
    share: SomeShare = 0.1

    paper: ClassVar[Paper] = Paper(
        title="Efficient Video Compression via Content-Adaptive Super-Resolution",
        authors="Khani, Sivaraman, Alizadeh", venue="ICCV", year=2021, arxiv="2104.02322",
    )  # fmt: skip

    def overfit(self, source: Source, *, rng: Generator) -> Overfitted:
        """Train on a clip."""
        return _by_updates(source, self, rng, first=self.share, later=self.share, worst=None, squared=True)


@settings
class LiveNAS(_InStretches):
    """Restore each stretch by what was learnt from patches of the stretches before it: nothing looks ahead.

    Attributes:
        chunk_seconds: length of a stretch of time.
        cell: side of a training patch in low-resolution pixels.
        backbone: of the network.
        steps: of the optimiser, over all stretches.
        lr: first learning rate of each training.
        batch_size: patches a step.
        share: of a stretch's patches that are sent up in full resolution to be trained on.
    """

    share: SomeShare = 0.1

    paper: ClassVar[Paper] = Paper(
        title="Neural-Enhanced Live Streaming: Improving Live Video Ingest via Online Learning",
        authors="Kim, Jung, Yeo, Ye, Han", venue="SIGCOMM", year=2020,
    )  # fmt: skip

    def overfit(self, source: Source, *, rng: Generator) -> Overfitted:
        """Train on a clip; the first stretch has the network as it begins."""
        n = self.chunks(len(source.low), source.rate)
        net = folded(built(self.backbone, source.scale, rng, source.general))
        nets, places, patches = list[Module](), list[Tensor](), None
        for c in range(n):
            own = folded(built(self.backbone, source.scale, rng))
            own.load_state_dict(net.state_dict())
            nets.append(own)
            patches = _of_chunk(source, self, c, n)
            drawn = torch.randperm(len(patches), generator=rng)[: max(1, round(self.share * len(patches)))]
            places.append(patches.places[drawn])
            if c + 1 < n:
                seen = replace(patches, places=torch.cat(places))
                overfit_(
                    net,
                    seen,
                    steps=max(1, self.steps // max(1, n - 1)),
                    lr=self.lr,
                    rng=child(rng),
                    label=f"up to stretch {c + 1}",
                )
        sent = 3 * (self.cell * source.scale) ** 2 * sum(map(len, places))
        return _whole(
            source, self, nets, n, chained=True, **{"KiB of patches sent up, uncompressed": sent / 1024}
        )
