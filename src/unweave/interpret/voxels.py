"""From voxels to tokens: an encoder, how well its tokens find their image, and what each region of the brain adds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn import Linear, Module

from ..errors import InputError
from ..random import require_generator
from ..tasks import evaluating
from .transport import exact_plan

Measure = Callable[[Tensor], float]
"""Predicted tokens [n, t, width] -> a figure, higher is better."""


class VoxelEncoder(Module):
    """Voxels [n, v] -> tokens [n, t, width]: a linear map, then attention between tokens.

    The published encoder begins with tokens a_r (W v) + b_r, which is a map of rank one over tokens: all of them see
    the voxels through the same `hidden` numbers. "full" gives each token a map of its own.

    Args:
        voxels: v.
        tokens: t.
        width: of a token.
        hidden: width inside; a multiple of `heads`.
        depth: attention blocks.
        heads: of each.
        begin: "rank one" or "full".
    """

    def __init__(
        self,
        voxels: int,
        tokens: int,
        width: int,
        *,
        hidden: int = 64,
        depth: int = 2,
        heads: int = 4,
        begin: Literal["rank one", "full"] = "rank one",
    ) -> None:
        super().__init__()
        if hidden % heads:
            raise InputError(f"VoxelEncoder.hidden must be a multiple of heads, {heads}; got {hidden}.")
        if begin not in ("rank one", "full"):
            raise InputError(f'VoxelEncoder.begin must be "rank one" or "full"; got {begin!r}.')
        self.voxels, self.tokens, self.full = voxels, tokens, begin == "full"
        self.read = Linear(voxels, hidden * (tokens if self.full else 1))
        self.scale = nn.Parameter(1 + 0.1 * torch.randn(tokens, 1))
        self.shift = nn.Parameter(0.1 * torch.randn(tokens, hidden))
        self.norm = nn.LayerNorm(hidden)
        block = nn.TransformerEncoderLayer(
            hidden, heads, 2 * hidden, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(block, depth, enable_nested_tensor=False)
        self.out = Linear(hidden, width)

    def forward(self, voxels: Tensor) -> Tensor:
        """Tokens [n, t, width] of voxels [n, v].

        Raises:
            InputError: if there are other than v voxels.
        """
        if voxels.ndim != 2 or voxels.shape[1] != self.voxels:
            raise InputError(
                f"VoxelEncoder reads voxels [n, {self.voxels}]; got {tuple(voxels.shape)}. Is it another "
                "subject's mask?"
            )
        seen = self.read(voxels)
        seen = seen.view(len(voxels), self.tokens, -1) if self.full else seen[:, None] * self.scale
        tokens: Tensor = self.out(self.blocks(self.norm(seen + self.shift)))
        return tokens


def token_accuracy(predicted: Tensor, target: Tensor) -> float:
    """Share of predicted tokens [n, t, width] nearest, by cosine, to the one of their image in their place."""
    found = (_unit(predicted) @ _unit(target).mT).argmax(2)
    return float((found == torch.arange(target.shape[1], device=found.device)).float().mean())


def identification(
    predicted: Tensor,
    target: Tensor,
    among: int,
    *,
    rng: Generator,
    by: Literal["flat", "pooled", "transport"] = "flat",
) -> float:
    """Share of samples that lie nearer to their own image than to `among` - 1 others drawn for each.

    Args:
        predicted: tokens [n, t, width].
        target: tokens of their images, [n, t, width]; another image just as near counts against.
        among: images to choose from, at least 2 and at most n.
        rng: draws the others.
        by: "flat" compares all tokens in place, "pooled" their means, both by the cosine of what is left without the
            targets' mean; "transport" by the cheapest assignment of tokens to tokens, whatever their order.

    Raises:
        InputError: if `among` is out of range, or shapes differ.
    """
    require_generator(rng)
    n = len(predicted)
    if not 2 <= among <= n or predicted.shape != target.shape:
        raise InputError(
            f"identification chooses among 2 to {n} images, of tokens of one shape; got among={among}, "
            f"{tuple(predicted.shape)} and {tuple(target.shape)}."
        )
    centre = target.mean(0)
    p, t = (
        _unit((x - centre).mean(1) if by == "pooled" else (x - centre).flatten(1))
        for x in (predicted, target)
    )
    right = 0
    for i in range(n):
        others = torch.randperm(n - 1, generator=rng)[: among - 1]
        others = torch.cat([torch.tensor([i]), others + (others >= i)])
        if by == "transport":
            apart = torch.cdist(predicted[i][None], target[others])
            near = -torch.stack([(exact_plan(c) * c.double().cpu()).sum() for c in apart])
        else:
            near = t[others] @ p[i]
        right += bool((near[0] > near[1:]).all())
    return right / n


def without(voxels: Tensor, regions: Tensor, *which: int) -> Tensor:
    """Voxels [n, v] with those of some regions at 0.

    Args:
        voxels: [n, v].
        regions: the region of each voxel, int64 [v].
        which: regions to hide.

    Raises:
        InputError: if there is not one region a voxel, or a region has no voxel.
    """
    if tuple(regions.shape) != (voxels.shape[1],):
        raise InputError(
            f"regions name one region for each of {voxels.shape[1]} voxels; got shape {tuple(regions.shape)}."
        )
    hidden = torch.zeros_like(regions, dtype=torch.bool)
    for region in which:
        if not bool((regions == region).any()):
            raise InputError(f"no voxel is of region {region}. There are: {torch.unique(regions).tolist()}.")
        hidden |= regions == region
    return voxels.masked_fill(hidden.to(voxels.device), 0)


@dataclass(frozen=True, kw_only=True)
class RegionEffects:
    """What regions of the brain add to a figure.

    Attributes:
        whole: the figure with all regions.
        alone: region -> how much it falls without that one.
        joint: pair of regions -> how much more it falls without both than without each, added up. Above zero one makes
            up for the other (redundancy); below zero either is of use only beside the other (synergy).
    """

    whole: float
    alone: dict[int, float]
    joint: dict[tuple[int, int], float]


def region_effects(encoder: Module, voxels: Tensor, regions: Tensor, measure: Measure) -> RegionEffects:
    """Hide each region, and each pair, and see what an encoder loses.

    Args:
        encoder: voxels -> tokens; left unchanged, in eval mode meanwhile.
        voxels: [n, v].
        regions: the region of each voxel, int64 [v].
        measure: of its tokens.

    Raises:
        InputError: if there is not one region a voxel.
    """

    def value(*which: int) -> float:
        with evaluating(encoder):
            return measure(encoder(without(voxels, regions, *which)))

    whole, names = value(), sorted(set(regions.tolist()))
    alone = {r: whole - value(r) for r in names}
    pairs = {(a, b): whole - value(a, b) - alone[a] - alone[b] for a, b in combinations(names, 2)}
    return RegionEffects(whole=whole, alone=alone, joint=pairs)


def _unit(x: Tensor) -> Tensor:
    unit: Tensor = x / x.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    return unit
