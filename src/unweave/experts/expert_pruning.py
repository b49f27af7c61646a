"""Drop the experts of lowest score, layer by layer.

One procedure, and a score that is a setting: the published methods differ by nothing else. With X_j the tokens routed
to expert j (padding left out), f_j its answer and g_j the weight that the model really applies:

    frequency            |X_j|
    weighted frequency   sum g_j
    ean sum, ean mean    sum, mean of ||f_j||_2                      (expert activation norm)
    weighted ean         sum of g_j ||f_j||_2
    ean ca               || mean of f_j ||_2
    max activation       largest magnitude inside (what `down` reads) or of the answer
    reap                 mean of g_j ||f_j||_2                       (Lasby et al., 2025, the default)
    random               a control

Lasby et al., "REAP the Experts: Why Pruning Prevails for One-Shot MoE Compression" (https://arxiv.org/abs/2510.13999);
formulas as in the method card moe-pruning-baselines, part A. The router loses the rows of dropped experts and is left
alone otherwise. Decided here: an expert without tokens scores 0; where a router chooses groups first, the same number
stays in each; where a model weighs what experts read (Llama 4), g_j ||f_j(x)|| is ||f_j(g_j x)||; with
`granularity="global"` scores are divided by their block's sum before all blocks are ranked together, since norms grow
with depth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Generator, Tensor
from torch.nn import Module

from ..errors import InputError
from ..masks.layers import copied
from ..models.moe import MoE, Routed, keep_experts_, moe_layers
from ..models.moe.cut import best_experts, groups_of
from ..paper import Paper
from ..settings import Count, SomeShare, refuse_idle, settings
from ..types import Data
from ._budget import calibration, experts_for, show_routing

ScoreName = Literal[
    "reap", "frequency", "weighted frequency", "ean sum", "ean mean", "weighted ean", "ean ca", "max activation",
    "random",
]  # fmt: skip


@settings
class ExpertPruning:
    """Drop whole experts by a score from calibration texts; REAP's unless told otherwise.

    Attributes:
        score: which; see the module.
        experts: how many stay in each layer; as many as `memory` pays for unless given.
        memory: share of the model's parameters to end with, at most.
        granularity: "uniform": the same number in each layer; "global": the best of all layers, each block's scores
            divided by their sum, at least what a token uses in each layer.
        examples: calibration texts, evenly spaced through the data.
    """

    score: ScoreName = "reap"
    experts: Count | None = None
    memory: SomeShare = 0.725
    granularity: Literal["uniform", "global"] = "uniform"
    examples: Count = 128

    paper: ClassVar[Paper] = Paper(
        "REAP the Experts: Why Pruning Prevails for One-Shot MoE Compression",
        "Lasby, Lazarevich, Sinnadurai, Lie, Ioannou, Thangarasa", "ICLR", 2026, "2510.13999",
    )  # fmt: skip

    def __post_init__(self) -> None:
        if self.experts is not None:
            refuse_idle(self, "memory", when="with experts: it says how many")

    def apply(self, model: Module, data: Data[Any], *, rng: Generator) -> Module:
        """A copy of `model` with fewer experts.

        Args:
            model: with mixture-of-experts layers; left unchanged.
            data: calibration texts.
            rng: for the random score.

        Raises:
            EmptyDataError: if there is no text.
            InputError: if there is no such layer, or the number of experts does not fit.
        """
        edited = copied(model)
        moes = moe_layers(edited, "ExpertPruning")
        keep = self.check(edited)
        scores = self.scores(edited, data, rng=rng)
        keep_experts_(edited, self._kept(edited, moes, scores, keep), moes, "ExpertPruning")
        return edited

    def check(self, model: Module) -> int:
        """How many experts stay in a layer, once that is known to fit; errors as in `apply`."""
        moes = moe_layers(model, "ExpertPruning")
        if self.granularity == "global" and groups_of(model) > 1:
            raise InputError(
                'ExpertPruning.granularity="global" does not fit a router that chooses groups first, which need '
                'equal numbers. Take "uniform".'
            )
        return experts_for("ExpertPruning", model, moes, self.memory, self.experts)

    def scores(self, model: Module, data: Data[Any], *, rng: Generator) -> dict[str, Tensor]:
        """Block -> score of each of its experts [N], float64; higher is worth keeping. Errors as in `apply`."""
        texts = calibration("ExpertPruning", data, self.examples, rng)
        moes = moe_layers(model, "ExpertPruning")
        if self.score == "random":
            return {moe.name: torch.rand(moe.count, generator=rng, dtype=torch.float64) for moe in moes}
        totals = {moe.name: Totals(moe, self.score) for moe in moes}
        show_routing("ExpertPruning", model, texts, moes, lambda moe, routed: totals[moe.name].add(routed))
        return {name: total.score() for name, total in totals.items()}

    def _kept(
        self, model: Module, moes: Sequence[MoE], scores: Mapping[str, Tensor], keep: int
    ) -> dict[str, Sequence[int]]:
        counts = dict.fromkeys(scores, keep)
        if self.granularity == "global":
            counts = _global_counts(moes, scores, keep)
        return {moe.name: best_experts(model, moe, scores[moe.name], counts[moe.name]) for moe in moes}


class Totals:
    """Sums over the tokens of each expert of a block, a batch at a time.

    Args:
        moe: the block.
        score: which sums are needed; frequencies alone run no expert.
    """

    def __init__(self, moe: MoE, score: ScoreName) -> None:
        self.moe, self.kind = moe, score
        self.counts = torch.zeros(moe.count, dtype=torch.float64)
        self.sums = torch.zeros(moe.count, dtype=torch.float64)
        self.means = torch.zeros(moe.count, moe.width, dtype=torch.float64)

    def add(self, routed: Routed) -> None:
        """Add a batch."""
        for e in range(self.moe.count):
            tokens, weights = routed.of(e)
            if not len(tokens):
                continue
            self.counts[e] += len(tokens)
            if self.kind == "weighted frequency":
                self.sums[e] += weights.double().sum().cpu()
            elif self.kind != "frequency":
                self._add_answers(e, routed.hidden[tokens], weights)

    def _add_answers(self, e: int, x: Tensor, weights: Tensor) -> None:
        if self.kind == "max activation":
            inner, own = self.moe.expert(e).inner(x), self.moe.expert(e)(x)
            self.sums[e] = max(float(self.sums[e]), float(inner.abs().max()), float(own.abs().max()))
            return
        weighed = self.kind in ("reap", "weighted ean")
        answers = self.moe.apply_expert(e, x, weights if weighed else 1.0).double()
        if self.kind == "ean ca":
            self.means[e] += answers.sum(0).cpu()
        else:
            self.sums[e] += answers.norm(dim=1).sum().cpu()

    def score(self) -> Tensor:
        """The score [N], float64; 0 for experts without tokens."""
        if self.kind == "frequency":
            return self.counts
        if self.kind == "ean ca":
            sizes: Tensor = (self.means / self.counts.clamp(min=1)[:, None]).norm(dim=1)
            return sizes
        return self.sums / self.counts.clamp(min=1) if self.kind in ("reap", "ean mean") else self.sums


def _global_counts(moes: Sequence[MoE], scores: Mapping[str, Tensor], keep: int) -> dict[str, int]:
    """How many of each block are among the best of all, each block's own best `top_k` being safe."""
    counts, others = {}, list[tuple[float, str]]()
    for moe in moes:
        own = (
            (scores[moe.name] / scores[moe.name].sum().clamp(min=1e-30)).sort(descending=True).values.tolist()
        )
        counts[moe.name] = moe.top_k
        others += [(score, moe.name) for score in own[moe.top_k :]]
    budget = keep * len(moes) - sum(counts.values())
    for _, name in sorted(others, key=lambda item: -item[0])[:budget]:
        counts[name] += 1
    return counts
