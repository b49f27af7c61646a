"""HC-SMoE: merge experts that answer alike, by hierarchical clustering.

Chen et al., "Retraining-Free Merging of Sparse MoE via Hierarchical Clustering", ICML 2025
(https://arxiv.org/abs/2410.08589); as in the method card moe-pruning-baselines, part B. An expert's feature is its mean
answer over all calibration tokens, routed to it or not; agglomerative clustering with average linkage of Euclidean
distances gives M clusters; the members of each are averaged by how often they are chosen. The router is unchanged, its
outputs are tied to the merged experts. Usage counts the model's own top-k.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Generator, Tensor
from torch.nn import Module

from ..masks.layers import copied
from ..models.moe import MoE, Routed, moe_layers
from ..paper import Paper
from ..settings import Count, SomeShare, refuse_idle, settings
from ..types import Data
from ._budget import calibration, experts_for, show_routing
from ._merge import merge_, refuse_scaled_inputs


@settings
class HCSMoE:
    """Merge the experts of each layer that answer alike.

    Attributes:
        experts: how many stay in each layer; as many as `memory` pays for unless given.
        memory: share of the model's parameters to end with, at most.
        merge: weights of the mean: how often each is chosen ("frequency"), or equal.
        examples: calibration texts, evenly spaced through the data; every expert reads all of their tokens.
    """

    experts: Count | None = None
    memory: SomeShare = 0.725
    merge: Literal["frequency", "equal"] = "frequency"
    examples: Count = 32

    paper: ClassVar[Paper] = Paper(
        "Retraining-Free Merging of Sparse MoE via Hierarchical Clustering",
        "Chen, Liu, Sun, Chu, Hsu, Lee", "ICML", 2025, "2410.08589",
    )  # fmt: skip

    def __post_init__(self) -> None:
        if self.experts is not None:
            refuse_idle(self, "memory", when="with experts: it says how many")

    def apply(self, model: Module, data: Data[Any], *, rng: Generator) -> Module:
        """A copy of `model` whose experts were merged.

        Args:
            model: with mixture-of-experts layers; left unchanged.
            data: calibration texts.
            rng: not drawn from.

        Raises:
            EmptyDataError: if there is no text.
            InputError: if there is no such layer, the number does not fit, or the model weighs what experts read.
        """
        texts = calibration("HCSMoE", data, self.examples, rng)
        edited = copied(model)
        moes = moe_layers(edited, "HCSMoE")
        keep = self.check(edited)
        usage = {moe.name: torch.zeros(moe.count, dtype=torch.float64) for moe in moes}
        sums = {moe.name: torch.zeros(moe.count, moe.width, dtype=torch.float64) for moe in moes}

        def see(moe: MoE, routed: Routed) -> None:
            for e in range(moe.count):
                usage[moe.name][e] += len(routed.of(e)[0])
                sums[moe.name][e] += moe.expert(e)(routed.hidden).double().sum(0).cpu()

        show_routing("HCSMoE", edited, texts, moes, see)
        clusters = {moe.name: agglomerated(sums[moe.name], usage[moe.name], keep) for moe in moes}
        weights = usage if self.merge == "frequency" else {n: torch.ones_like(u) for n, u in usage.items()}
        merge_(edited, moes, clusters, weights, align=False)
        return edited

    def check(self, model: Module) -> int:
        """How many experts stay in a layer, once that is known to fit; errors as in `apply`."""
        moes = moe_layers(model, "HCSMoE")
        refuse_scaled_inputs(moes)
        return experts_for("HCSMoE", model, moes, self.memory, self.experts, router=False)


def agglomerated(features: Tensor, usage: Tensor, keep: int) -> list[list[int]]:
    """Clusters of the rows of [N, H] by average linkage of their distances, the most used member first."""
    from sklearn.cluster import AgglomerativeClustering

    # distances are those of the sums: all are over the same tokens, so the means differ by one factor
    if keep == len(features):
        return [[e] for e in range(keep)]
    labels = AgglomerativeClustering(keep, metric="euclidean", linkage="average").fit_predict(
        features.numpy()
    )
    members = [[e for e, label in enumerate(labels) if label == i] for i in range(keep)]
    return sorted(sorted(m, key=lambda e: (-float(usage[e]), e)) for m in members)
