"""PCSR: super-resolution that spends its work on the pixels that need it.

Jeong, Kim, Jo et al., "Accelerating Image Super-Resolution Networks with Pixel-Level Classification", ECCV 2024,
arXiv 2407.21448. A backbone gives features; a small or a large MLP makes each large pixel of the nearest cell's
features, the offset to it and the pixel's size, on top of the bilinear picture; a classifier says which.

    stage 1:  L1(U_H + bilinear, clean)                                        backbone and U_H
    stage 2:  1000 L1(p_L U_L + p_H U_H + bilinear, clean) + 3 |sum p_H - N/2| / (N/2)     U_L and classifier
    used:     argmax_j p_j / c_j^k                                             one knob k, no training

c_j is what a pixel costs. In training both MLPs are asked at every queried pixel; N is the pixels of a batch.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from torch import Generator, Tensor
from torch.nn import Module
from torch.optim import Adam
from torch.optim.lr_scheduler import CosineAnnealingLR

from ...errors import InputError
from ...fit import Loop, fit_, steps_of
from ...paper import Paper
from ...random import draw_seed, global_seed, require_generator
from ...settings import Count, NonNegative, Positive, Range, settings
from ...tasks import Restoring, requires
from ...types import Batch, Data
from .._checks import require_pairs, require_pictures
from .network import PCSRNet


@settings
class PCSR:
    """Train a super-resolution network whose cost is chosen when it is used, pixel by pixel.

    Attributes:
        backbone: "fsrcnn", the paper's lightest, or "convs", a chain of 3x3 convolutions.
        width: channels of its features.
        depth: its 3x3 convolutions.
        heavy: hidden sizes of the heavy up-sampler.
        light: hidden sizes of the light one.
        classifier: hidden sizes of the classifier; none is linear.
        scale: of the sides; the pairs must have it. Other scales can be asked for later.
        channels: of the pictures.
        queries: large pixels of each picture read at a step; 0 reads all.
        balance: weight of the term that asks for half of the pixels to be heavy.
        lr: of Adam, falling to 1e-7 by a cosine.
        epochs: passes over the pairs in stage 1.
        router_epochs: passes in stage 2.
    """

    backbone: Literal["fsrcnn", "convs"] = "fsrcnn"
    width: Count = 48
    depth: Count = 4
    heavy: tuple[Count, ...] = (58, 58, 58, 58)
    light: tuple[Count, ...] = (10, 10, 10)
    classifier: tuple[Count, ...] = ()
    scale: Annotated[float, Range(at_least=1)] = 4.0
    channels: Count = 3
    queries: Annotated[int, Range(at_least=0)] = 0
    balance: NonNegative = 3.0
    lr: Positive = 1e-3
    epochs: Count = 100
    router_epochs: Count = 25

    paper: ClassVar[Paper] = Paper(
        "Accelerating Image Super-Resolution Networks with Pixel-Level Classification",
        "Jeong, Kim, Jo et al.", "ECCV", 2024, "2407.21448",
    )  # fmt: skip

    def initial(self, rng: Generator) -> PCSRNet:
        """The network before training."""
        require_generator(rng)
        with global_seed(draw_seed(rng)):
            return PCSRNet(
                backbone=self.backbone, width=self.width, depth=self.depth, heavy=self.heavy, light=self.light,
                classifier=self.classifier, channels=self.channels, scale=self.scale,
            )  # fmt: skip

    def build(self, data: Data[Restoring], *, rng: Generator) -> PCSRNet:
        """Train on pairs of small pictures [n, channels, h, w] and large ones, values in [0, 1].

        Raises:
            InputError: if the pairs have other channels or another scale, or more queries than pixels are asked for.
            NonFiniteError: if training diverges.
        """
        requires(data.task, Restoring, "PCSR")
        first = require_pairs(data, "PCSR", rng)
        small, large = data.task.degraded(first), data.task.clean(first)
        require_pictures(small, "PCSR", channels=self.channels)
        net = self.initial(rng)
        size = net.size_of(small, self.scale)
        if tuple(large.shape[2:]) != size:
            raise InputError(
                f"PCSR has scale {self.scale:g}, so {tuple(small.shape[2:])} must become {size}; the clean pictures "
                f"are {tuple(large.shape[2:])}."
            )
        if self.queries > size[0] * size[1]:
            raise InputError(
                f"PCSR.queries must be at most the {size[0] * size[1]} pixels of a large picture; got {self.queries}."
            )
        for part in (net.light, net.classifier):
            part.requires_grad_(False)
        self._fit(net, data, lambda m, b: self._whole(m, data.task, b), self.epochs, rng, "PCSR, backbone")
        net.requires_grad_(False)
        for part in (net.light, net.classifier):
            part.requires_grad_(True)
        net.eval()
        self._fit(
            net, data, lambda m, b: self._mixed(m, data.task, b), self.router_epochs, rng, "PCSR, router"
        )
        return net.requires_grad_(True).eval()

    def _fit(
        self, net: PCSRNet, data: Data[Restoring], loss: object, epochs: int, rng: Generator, label: str
    ) -> None:
        weights = [p for p in net.parameters() if p.requires_grad]
        adam = Adam(weights, lr=self.lr, betas=(0.9, 0.99))
        schedule = CosineAnnealingLR(adam, epochs * steps_of(net, data), eta_min=min(1e-7, self.lr))
        fit_(net, data, loss, adam, epochs=epochs, rng=rng, loop=Loop(label=label, schedule=schedule))  # type: ignore[arg-type]

    def _asked(self, net: Module, task: Restoring, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, bilinear colours and clean colours of the pixels of this step."""
        like = next(net.parameters())
        small, large = task.degraded(batch).to(like), task.clean(batch).to(like)
        size = (large.shape[2], large.shape[3])
        pixels = size[0] * size[1]
        at = torch.randperm(pixels)[: self.queries or pixels].to(like.device)
        query, base = net.queries(small, size, at)  # type: ignore[operator]
        return query, base, large.flatten(2)[:, :, at].transpose(1, 2)

    def _whole(self, net: Module, task: Restoring, batch: Batch) -> Tensor:
        query, base, wanted = self._asked(net, task, batch)
        return (net.heavy(query) + base - wanted).abs().mean()  # type: ignore[operator, no-any-return]

    def _mixed(self, net: Module, task: Restoring, batch: Batch) -> Tensor:
        query, base, wanted = self._asked(net, task, batch)
        made, chance = net.soft(query, base)  # type: ignore[operator]
        return mixed_loss(made, chance, wanted, self.balance)


def mixed_loss(made: Tensor, chance: Tensor, wanted: Tensor, balance: float) -> Tensor:
    """Stage 2's loss of colours [n, q, c] and chances of the heavy up-sampler [n, q]."""
    half = chance.numel() / 2
    return 1000 * (made - wanted).abs().mean() + balance * (chance.sum() - half).abs() / half
