"""SE-MoE: run a mixture of experts whose experts do not all fit where it runs.

Shen et al., "SE-MoE: A Scalable and Efficient Mixture-of-Experts Distributed Training and Inference System", 2022
(https://arxiv.org/abs/2205.10034). The parts that one small machine can show, each to the bit what the whole model
computes: a ring of slots for the experts of whole layers, a cache of single experts with write-back, the exchange of
tokens in two steps, and the planner of elastic training.

For serving use an engine that is made for it: vLLM or SGLang (expert parallelism), DeepSpeed-MoE, Tutel (exchange),
MoE-Infinity, KTransformers or llama.cpp (experts on the host). This is for small machines, and for seeing how it works.
"""

from __future__ import annotations

import warnings
from typing import Any, ClassVar, Literal

import torch
from torch.nn import Module

from ...errors import InputError
from ...masks.layers import copied
from ...models.moe import MoE, moe_layers
from ...paper import Paper
from ...settings import Count, Inner, NonNegative, Whole, refuse_idle, settings
from .by_expert import CachedExperts
from .cache import CacheRule, ExpertCache, Policy
from .ring import Offloaded, Ring


@settings
class SEMoE:
    """Keep most experts of a model on the host, and have the next ones ready.

    Attributes:
        slots: layers whose experts are held (K of L), or experts held of each layer.
        granularity: what takes turns: the experts of whole "layer"s in a ring, or single experts in a cache, as tokens
            choose them (for inference).
        prefetch: send for the next layer as soon as a slot is free; without, each layer is waited for.
        wrap: go on with the first layers after the last, as in generation.
        policy: which expert makes place in a cache: the one with the fewest decayed hits, or the longest unused.
        decay: factor on hits.
        every: requests between decays.
        threshold: hits from which an expert is asked to make place first.
        device: where slots lie, such as "cuda"; the model's own unless given.
        delay: seconds that each copy of a layer is made to last: to show overlap on a machine whose memory is one.
    """

    slots: Count = 2
    granularity: Literal["layer", "expert"] = "layer"
    prefetch: bool = True
    wrap: bool = True
    policy: Policy = "lfu decay"
    decay: Inner = 0.5
    every: Count = 100
    threshold: Whole = 0
    device: str | None = None
    delay: NonNegative = 0.0

    paper: ClassVar[Paper] = Paper(
        "SE-MoE: A Scalable and Efficient Mixture-of-Experts Distributed Training and Inference System",
        "Shen, Wu, Gong, Hao, Bai, Wu, Wu, Xiong, Yu, Ma", "arXiv", 2022, "2205.10034",
    )  # fmt: skip

    def __post_init__(self) -> None:
        if self.granularity == "layer":
            names = ("policy", "decay", "every", "threshold")
            refuse_idle(self, *names, when='with granularity="layer": the ring has no cache')
        else:
            names = ("prefetch", "wrap", "device", "delay")
            refuse_idle(self, *names, when='with granularity="expert": experts come when they are chosen')
        if self.policy == "lru":
            refuse_idle(self, "decay", "every", "threshold", when='with policy="lru"')
        if not self.prefetch:
            refuse_idle(self, "wrap", when="with prefetch=False")

    def adapt(self, model: Module) -> Module:
        """A copy of `model` that holds few of its experts where it runs.

        Args:
            model: with mixture-of-experts layers, on one device; left unchanged.

        Returns:
            An `Offloaded` around it; with granularity="expert" the model itself, each block's `experts` a
            `CachedExperts` whose `cache` counts hits.

        Raises:
            InputError: if it has no such layer, was dispatched by accelerate, or everything would be held.
        """
        moes = moe_layers(model, "SEMoE")
        held = len(moes) if self.granularity == "layer" else min(moe.count for moe in moes)
        if self.slots >= held:
            what = "layers with experts" if self.granularity == "layer" else f"experts of {moes[0].name}"
            raise InputError(
                f"SEMoE.slots={self.slots} would hold all {held} {what}: nothing is left to fetch. Take fewer."
            )
        inner = copied(model)
        moes = moe_layers(inner, "SEMoE")
        if self.granularity == "expert":
            return self._by_expert(inner, moes)
        if self.slots == 1 and self.prefetch:
            warnings.warn(
                "SEMoE: with one slot every layer is waited for. Take 2 or more to overlap.", stacklevel=2
            )
        device = None if self.device is None else torch.device(self.device)
        ring = Ring(
            moes, self.slots, device=device, prefetch=self.prefetch, wrap=self.wrap, delay=self.delay
        )  # fmt: skip
        return Offloaded(inner, ring)

    def _by_expert(self, model: Module, moes: list[MoE]) -> Module:
        odd = next((moe.name for moe in moes if moe.scales_input), None)
        if odd is not None:
            raise InputError(
                f'SEMoE.granularity="expert": {odd} runs every expert on every token. Take "layer".'
            )
        rule = CacheRule()
        if self.policy == "lru":
            rule = CacheRule(policy="lru")
        else:
            rule = CacheRule(decay=self.decay, every=self.every, threshold=self.threshold)

        def make(store: Any, room: int, move: Any) -> ExpertCache:
            return ExpertCache(store, room, rule, move)

        for moe in moes:
            name = next(n for n, child in moe.block.named_children() if child is moe.experts)
            setattr(moe.block, name, CachedExperts(moe, self.slots, make).train(moe.experts.training))
        return model
