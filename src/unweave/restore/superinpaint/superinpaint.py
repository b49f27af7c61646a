"""SuperInpaint: fill holes and enlarge in one, by a picture that can be asked at any place.

Zhang, Guo, Li et al., "SuperInpaint: Learning Detail-Enhanced Attentional Implicit Representation for
Super-resolutional Image Inpainting", 2023, arXiv 2307.14489. A RECONSTRUCTION: only the abstract was at hand. The named
parts have their roles; layers, sizes and the order of masking are ours:

    F = E([x (1 - M), M]);   F_d = F + (F - smoothed F), weights of the 3x3 mean from F, pixel by pixel
    F_a = softmax(Q K^T / sqrt(d) + log(known share of the key's cell)) V;   W = sigmoid(conv [F_d, F_a, M])
    c(p) = sum_i W_i a_i MLP([F_d, F_a, W](i), p - p_i, cell) / sum_i W_i a_i over the four nearest pixels

with a_i the area opposite pixel i. The small picture is masked, not the large one, so that known pixels are clean.
Plain L1 fills holes smoothly: judge the holes by themselves.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from torch import Generator, Tensor
from torch.nn import Module
from torch.optim import Adam

from ...errors import InputError
from ...fit import Loop, fit_
from ...paper import Paper
from ...random import draw_seed, global_seed, require_generator
from ...settings import Count, NonNegative, Positive, Range, Whole, settings
from ...tasks import Restoring, requires
from ...types import Batch, Data
from .._checks import require_pairs, require_pictures
from .network import SuperInpaintNet, require_mask


@settings
class SuperInpaint:
    """Train a network that completes small pictures with holes at any larger size; a reconstruction.

    Attributes:
        channels: of the pictures.
        features: channels inside.
        blocks: residual blocks of the encoder.
        hidden: width of the decoder.
        layers: hidden layers of it.
        pool: side of the cells that attention borrows from.
        detail: add what an adaptive high-pass filter lets through.
        attend: let every pixel borrow from known ones.
        weigh: weigh the neighbours of a place by a learned map.
        combine: of the four neighbours: "ensemble" or "concat".
        scale: of the sides; the pairs must have it. Other scales can be asked for later.
        queries: places of each picture read at a step; 0 reads all.
        hole_weight: of places in holes in the loss; known ones have 1.
        lr: of Adam.
        epochs: passes over the pairs.
    """

    channels: Count = 3
    features: Count = 64
    blocks: Whole = 16
    hidden: Count = 256
    layers: Count = 4
    pool: Count = 4
    detail: bool = True
    attend: bool = True
    weigh: bool = True
    combine: Literal["ensemble", "concat"] = "ensemble"
    scale: Annotated[float, Range(at_least=1)] = 2.0
    queries: Whole = 2304
    hole_weight: NonNegative = 1.0
    lr: Positive = 1e-4
    epochs: Count = 100

    paper: ClassVar[Paper] = Paper(
        "SuperInpaint: Learning Detail-Enhanced Attentional Implicit Representation for Super-resolutional Image "
        "Inpainting",
        "Zhang, Guo, Li et al.", "arXiv", 2023, "2307.14489",
    )  # fmt: skip

    def initial(self, rng: Generator) -> SuperInpaintNet:
        """The network before training."""
        require_generator(rng)
        with global_seed(draw_seed(rng)):
            return SuperInpaintNet(
                channels=self.channels, features=self.features, blocks=self.blocks, hidden=self.hidden,
                layers=self.layers, pool=self.pool, detail=self.detail, attend=self.attend, weigh=self.weigh,
                combine=self.combine, scale=self.scale,
            )  # fmt: skip

    def build(self, data: Data[Restoring], *, rng: Generator) -> SuperInpaintNet:
        """Train on pairs of small pictures with their masks [n, channels + 1, h, w] and large whole ones.

        `holes` draws masks; the last channel is 1 in a hole.

        Raises:
            InputError: if the pairs have other channels or another scale, a mask is none, or more queries than places
                are asked for.
            NonFiniteError: if training diverges.
        """
        requires(data.task, Restoring, "SuperInpaint")
        first = require_pairs(data, "SuperInpaint", rng)
        small, large = data.task.degraded(first), data.task.clean(first)
        require_pictures(small, "SuperInpaint", channels=self.channels + 1)
        require_mask(small[:, -1:], small)
        net = self.initial(rng)
        size = net.size_of(small, self.scale)
        if tuple(large.shape[1:]) != (self.channels, *size):
            raise InputError(
                f"SuperInpaint has scale {self.scale:g}, so the clean pictures must be {(self.channels, *size)}; got "
                f"{tuple(large.shape[1:])}."
            )
        if self.queries > size[0] * size[1]:
            raise InputError(
                f"SuperInpaint.queries must be at most the {size[0] * size[1]} places of a large picture; got "
                f"{self.queries}."
            )

        def loss(m: Module, batch: Batch) -> Tensor:
            like = next(m.parameters())
            seen, wanted = data.task.degraded(batch).to(like), data.task.clean(batch).to(like)
            return place_loss(m, seen, wanted, self.queries, self.hole_weight)

        fit_(
            net.train(), data, loss, Adam(net.parameters(), lr=self.lr), epochs=self.epochs, rng=rng,
            loop=Loop(label="SuperInpaint"),
        )  # fmt: skip
        return net.eval()


def place_loss(net: Module, seen: Tensor, wanted: Tensor, queries: int, hole_weight: float) -> Tensor:
    """Mean absolute error at random places, those whose nearest small pixel is a hole weighed by `hole_weight`."""
    size = (wanted.shape[2], wanted.shape[3])
    at = torch.randperm(size[0] * size[1])[: queries or None].to(seen.device)
    made = net.at(seen, size, at)  # type: ignore[operator]
    apart: Tensor = (made - wanted.flatten(2)[:, :, at].transpose(1, 2)).abs().mean(2)
    hole = torch.nn.functional.interpolate(seen[:, -1:], size, mode="nearest").flatten(1)[:, at]
    weights = 1 + (hole_weight - 1) * hole
    return (weights * apart).sum() / weights.sum().clamp_min(1e-12)
