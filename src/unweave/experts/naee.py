"""NAEE: keep the set of experts with which a layer's answers stay nearest to the original's.

Lu et al., "Not All Experts are Equal: Efficient Expert Pruning and Skipping for Mixture-of-Experts Large Language
Models", ACL 2024 (https://arxiv.org/abs/2402.14800); as in the method card moe-pruning-baselines. For every set S of M
experts the layer is routed anew among S, by the model's own router with the other rows cut off, and S minimises the sum
over batches of ||Z - Z'||_F in float64, Z being the original answers. Above 12 experts, where sets are too many, they
are taken out one at a time, each time the one whose loss is least: our extension.

Every expert's answers are computed once; a set costs one pass of the router alone.

Dynamic skipping (`skip`, for two experts a token): beta of a layer is the median over calibration tokens of the second
weight over the first, after the pruning; a token whose ratio is below it passes its first expert alone, with both
weights: 1, as in the paper, where the model renormalises.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from itertools import combinations
from typing import Any, ClassVar, Literal

import torch
from torch import Generator, Tensor
from torch.nn import Module

from ..errors import InputError
from ..masks.layers import copied
from ..models.moe import MoE, Routed, keep_experts_, moe_layers, route_once, skip_
from ..models.moe.cut import groups_of, slice_own_
from ..paper import Paper
from ..progress import progress
from ..settings import Count, SomeShare, refuse_idle, settings
from ..tasks import evaluating
from ..types import Data
from ._budget import calibration, experts_for, show_routing
from .cd_moe.states import capture

MOST = 12  # experts of which every set is tried


@settings
class NAEE:
    """Prune experts by how well the layer's answers are reconstructed.

    Attributes:
        experts: how many stay in each layer; as many as `memory` pays for unless given.
        memory: share of the model's parameters to end with, at most.
        inputs: what a layer reads: of the original model ("layerwise"), or of the one with the layers before it pruned
            ("progressive").
        examples: calibration texts, evenly spaced through the data.
        skip: leave out a token's second expert where the first outweighs it.
    """

    experts: Count | None = None
    memory: SomeShare = 0.725
    inputs: Literal["layerwise", "progressive"] = "layerwise"
    examples: Count = 128
    skip: bool = False

    paper: ClassVar[Paper] = Paper(
        "Not All Experts are Equal: Efficient Expert Pruning and Skipping for Mixture-of-Experts Large Language Models",
        "Lu, Liu, Xu, Zhou, Huang, Zhang, Yan, Li", "ACL", 2024, "2402.14800",
    )  # fmt: skip

    def __post_init__(self) -> None:
        if self.experts is not None:
            refuse_idle(self, "memory", when="with experts: it says how many")

    def apply(self, model: Module, data: Data[Any], *, rng: Generator) -> Module:
        """A copy of `model` with fewer experts.

        Args:
            model: with mixture-of-experts layers; left unchanged.
            data: calibration texts.
            rng: not drawn from.

        Raises:
            EmptyDataError: if there is no text.
            InputError: if there is no such layer, the number of experts does not fit, or the router chooses groups
                first, from which single experts cannot be taken.
        """
        texts = calibration("NAEE", data, self.examples, rng)
        edited = copied(model)
        moes = moe_layers(edited, "NAEE")
        if groups_of(edited) > 1:
            raise InputError(
                "NAEE takes single experts out; this router chooses groups first. Take ExpertPruning."
            )
        keep = self.check(edited)
        kept: dict[str, Sequence[int]] = {}
        with evaluating(edited), progress("choose experts", len(moes)) as bar:
            for moe in moes:
                kept[moe.name] = best_set(moe, Answers.of(edited, texts, moe), keep)
                if self.inputs == "progressive":
                    keep_experts_(edited, {moe.name: kept[moe.name]}, moes, "NAEE")
                bar.advance()
        if self.inputs == "layerwise":
            keep_experts_(edited, kept, moes, "NAEE")
        if self.skip:
            now = moe_layers(edited, "NAEE")
            betas = skipping_limits(edited, texts, now)
            for moe in now:
                skip_(moe, betas[moe.name])
        return edited

    def check(self, model: Module) -> int:
        """How many experts stay in a layer, once that is known to fit; errors as in `apply`."""
        moes = moe_layers(model, "NAEE")
        odd = next((moe for moe in moes if moe.top_k != 2 or moe.scales_input), None)
        if self.skip and odd is not None:
            raise InputError(
                f"NAEE.skip is for two experts a token, weighed after they answered; {odd.name} takes {odd.top_k}"
                f"{' and weighs what they read' if odd.scales_input else ''}. Leave it out."
            )
        if groups_of(model) > 1:
            raise InputError(
                "NAEE takes single experts out; this router chooses groups first. Take ExpertPruning."
            )
        return experts_for("NAEE", model, moes, self.memory, self.experts)


def skipping_limits(model: Module, texts: Data[Any], moes: Sequence[MoE]) -> dict[str, float]:
    """Block -> median over the texts' tokens of a token's second weight over its first."""
    ratios: dict[str, list[Tensor]] = {moe.name: [] for moe in moes}

    def see(moe: MoE, routed: Routed) -> None:
        ordered = routed.weights.double().sort(1, descending=True).values
        ratios[moe.name].append((ordered[:, 1] / ordered[:, 0]).cpu())

    show_routing("NAEE", model, texts, moes, see)
    return {name: float(torch.cat(parts).median()) for name, parts in ratios.items()}


class Answers:
    """What a block and each of its experts answers on the calibration texts, a batch at a time.

    Args:
        moe: the block.
        inputs: what it reads, one [tokens, H] a batch.
    """

    def __init__(self, moe: MoE, inputs: Sequence[Tensor]) -> None:
        self.moe, self.inputs = moe, inputs
        self.shared = [moe.apply_shared(x).double() for x in inputs]
        self.targets = [route_once(moe, x)[0].double() for x in inputs]
        linear = not moe.scales_input
        self.each = [[moe.apply_expert(e, x) for e in range(moe.count)] for x in inputs] if linear else []

    @classmethod
    def of(cls, model: Module, texts: Data[Any], moe: MoE) -> Answers:
        """Run the model over the texts."""
        hidden = capture(model, texts, moe).routed.hidden
        size = max(1, -(-len(hidden) // texts.steps))
        return cls(moe, list(torch.split(hidden, size)))

    def loss(self, kept: Sequence[int]) -> float:
        """Sum over batches of ||Z - Z'||_F with these experts alone."""
        total = 0.0
        for i, x in enumerate(self.inputs):
            routed = route_among(self.moe, kept, x)
            y = self.shared[i].clone()
            for place, e in enumerate(kept):
                tokens, weights = routed.of(place)
                if not len(tokens):
                    continue
                if self.each:
                    answers = self.each[i][e][tokens].double() * weights[:, None].double()
                else:
                    answers = self.moe.apply_expert(e, x[tokens], weights).double()
                y.index_add_(0, tokens, answers)
            total += float((self.targets[i] - y).norm())
        return total


def best_set(moe: MoE, answers: Answers, keep: int) -> list[int]:
    """The experts to keep, rising: of all sets where there are few experts, by elimination elsewhere."""
    n = moe.count
    if keep == n:
        return list(range(n))
    if n <= MOST:
        return list(min(combinations(range(n), keep), key=lambda kept: answers.loss(list(kept))))
    left = list(range(n))
    while len(left) > keep:
        left.remove(min(left, key=lambda e: answers.loss([x for x in left if x != e])))
    return left


def route_among(moe: MoE, kept: Sequence[int], x: Tensor) -> Routed:
    """How the block's own router, cut down to these experts, routes tokens x [n, H]; indices count within `kept`."""
    bare = deepcopy(
        moe.block, {id(part): _Silent() for part in (moe.experts, moe.shared) if part is not None}
    )
    places = {id(m): name for name, m in moe.block.named_modules()}
    router, experts = (bare.get_submodule(places[id(part)]) for part in (moe.router, moe.experts))
    small = replace(moe, block=bare, router=router, experts=experts, shared=None)
    slice_own_(router, moe.count, torch.tensor(list(kept)))
    return route_once(small, x)[1]


class _Silent(Module):
    """Answers zeros, whatever it reads."""

    def forward(self, first: Tensor, *_: Any, **__: Any) -> Tensor:
        return torch.zeros_like(first)
