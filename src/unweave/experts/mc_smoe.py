"""MC-SMoE: merge experts into the most used ones, wherever in the model those are.

Li et al., "Merge, Then Compress: Demystify Efficient SMoE with Hints from Its Routing Policy", ICLR 2024
(https://arxiv.org/abs/2310.01334); as in the method card moe-pruning-baselines, part B. The experts chosen most often
over all layers, at least one in each, are dominant; every other joins the dominant of its layer whose router logits are
most like its own over the calibration tokens; its hidden units are aligned to the dominant's by a linear assignment;
a group becomes its mean weighted by usage. The router is untouched, its outputs are tied to the merged experts.

Decided here: the row mean is taken off the logits first, since a softmax does not see it and it would make all experts
alike. The paper's further compression (low rank and sparse) and its distillation are not part of this.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor
from torch.nn import Module

from ..errors import InputError
from ..masks.layers import copied
from ..models.moe import MoE, Routed, moe_layers
from ..paper import Paper
from ..settings import Count, SomeShare, refuse_idle, settings
from ..types import Data
from ._budget import calibration, experts_for, show_routing
from ._merge import merge_, refuse_scaled_inputs


@settings
class MCSMoE:
    """Merge experts into the most used ones, guided by the router's logits.

    Attributes:
        experts: how many stay in a layer on average; as many as `memory` pays for unless given.
        memory: share of the model's parameters to end with, at most.
        align: permute hidden units to fit the dominant expert's before averaging.
        examples: calibration texts, evenly spaced through the data.
    """

    experts: Count | None = None
    memory: SomeShare = 0.725
    align: bool = True
    examples: Count = 128

    paper: ClassVar[Paper] = Paper(
        "Merge, Then Compress: Demystify Efficient SMoE with Hints from Its Routing Policy",
        "Li, Zhang, Yang, Wang, Cheng, Bansal, Chen", "ICLR", 2024, "2310.01334",
    )  # fmt: skip

    def __post_init__(self) -> None:
        if self.experts is not None:
            refuse_idle(self, "memory", when="with experts: it says how many")

    def apply(self, model: Module, data: Data[Any], *, rng: Generator) -> Module:
        """A copy of `model` whose experts were merged.

        Args:
            model: with mixture-of-experts layers; left unchanged.
            data: calibration texts, of the task that matters.
            rng: not drawn from.

        Raises:
            EmptyDataError: if there is no text.
            InputError: if there is no such layer, the number does not fit, the model weighs what experts read, or its
                router tells no logits.
        """
        texts = calibration("MCSMoE", data, self.examples, rng)
        edited = copied(model)
        moes = moe_layers(edited, "MCSMoE")
        keep = self.check(edited)
        usage = {moe.name: torch.zeros(moe.count, dtype=torch.float64) for moe in moes}
        products = {moe.name: torch.zeros(moe.count, moe.count, dtype=torch.float64) for moe in moes}

        def see(moe: MoE, routed: Routed) -> None:
            if routed.logits is None:
                raise InputError(f"MCSMoE: the router of {moe.name} tells no logits to compare experts by.")
            z = routed.logits.double()
            z = (z - z.mean(1, keepdim=True)).cpu()
            products[moe.name] += z.T @ z
            usage[moe.name] += torch.tensor([len(routed.of(e)[0]) for e in range(moe.count)])

        show_routing("MCSMoE", edited, texts, moes, see)
        dominant = dominants(usage, keep * len(moes))
        clusters = {n: grouped(_cosines_of(products[n]), dominant[n]) for n in usage}
        merge_(edited, moes, clusters, usage, align=self.align)
        return edited

    def check(self, model: Module) -> int:
        """How many experts stay in a layer, once that is known to fit; errors as in `apply`."""
        moes = moe_layers(model, "MCSMoE")
        refuse_scaled_inputs(moes)
        return experts_for("MCSMoE", model, moes, self.memory, self.experts, router=False)


def dominants(usage: Mapping[str, Tensor], budget: int) -> dict[str, list[int]]:
    """Block -> its experts among the most used `budget` of all blocks, each block's own most used one included."""
    best = {name: int(u.argmax()) for name, u in usage.items()}
    others = [(float(u), name, e) for name, us in usage.items() for e, u in enumerate(us) if e != best[name]]
    chosen = {name: [e] for name, e in best.items()}
    for _, name, e in sorted(others, key=lambda item: -item[0])[: budget - len(best)]:
        chosen[name].append(e)
    return {name: sorted(es) for name, es in chosen.items()}


def grouped(similarity: Tensor, dominant: list[int]) -> list[list[int]]:
    """Each dominant expert with those that are most similar to it, [N, N] -> clusters."""
    clusters = {d: [d] for d in dominant}
    for e in range(len(similarity)):
        if e not in clusters:
            clusters[max(dominant, key=lambda d: float(similarity[e, d]))].append(e)
    return list(clusters.values())


def _cosines_of(products: Tensor) -> Tensor:
    """(cos + 1) / 2 of columns from their inner products [N, N]."""
    size = products.diagonal().sqrt().clamp(min=1e-30)
    return (products / size[:, None] / size + 1) / 2
