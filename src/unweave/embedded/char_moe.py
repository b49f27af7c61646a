"""A small mixture of experts that has read the Python standard library, character by character; made on the spot."""

from __future__ import annotations

import sysconfig
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn import Module
from torch.optim import AdamW

from ..errors import require
from ..fit import Loop, Step, fit_
from ..models.moe import MoE, Routed, moe_layers, watching
from ..random import child, draw_seed, global_seed
from ..settings import Count, NonNegative, Positive, settings
from ..tasks.language import CausalLM, windows
from ..types import Batch, Data

SYMBOLS = 128
"""Vocabulary: ASCII; anything else is read as 127."""


def sources(characters: int = 400_000, *, files: int = 60) -> Tensor:
    """The first characters of the standard library's own sources, as ids [n]; files in the order of their names.

    Args:
        characters: at most so many.
        files: taken evenly from all top-level files.
    """
    names = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    chosen = names[:: max(1, len(names) // files)][:files]
    text = "".join(name.read_text(encoding="utf-8", errors="replace") for name in chosen)[:characters]
    return torch.tensor([min(ord(c), SYMBOLS - 1) for c in text])


def char_texts(characters: int = 400_000, *, length: int = 64) -> tuple[Data[CausalLM], Data[CausalLM]]:
    """Windows to train on, and held-out windows: every tenth."""
    ids = sources(characters)
    whole = windows(ids, length, batch_size=12)
    held = torch.arange(len(whole)) % 10 == 9
    return whole.subset((~held).nonzero().flatten()), whole.subset(held.nonzero().flatten())


@settings
class CharMoE:
    """How the model is made: transformers' DeepSeek-V2 layout, trained with AdamW and a balance loss.

    Attributes:
        layers: decoder layers, each with a mixture of experts.
        experts: routed experts a layer.
        top_k: of which each token takes so many; weights are not renormalised.
        width: H.
        inner: hidden units of an expert; the shared expert has twice as many.
        steps: optimiser steps; a step reads one batch.
        lr: peak rate; a linear rise over 50 steps, linear decay to a tenth.
        balance: weight of N sum_e (share of tokens at e) (mean probability of e), averaged over layers.
    """

    layers: Count = 5
    experts: Count = 12
    top_k: Count = 3
    width: Count = 64
    inner: Count = 32
    steps: Count = 700
    lr: Positive = 3e-3
    balance: NonNegative = 0.01

    def initial(self, rng: Generator) -> Module:
        """The model before training."""
        transformers = require("transformers", extra="vision", purpose="making a mixture of experts")
        head = self.width // 4
        config = transformers.DeepseekV2Config(
            vocab_size=SYMBOLS, hidden_size=self.width, intermediate_size=2 * self.inner, num_hidden_layers=self.layers,
            num_attention_heads=4, num_key_value_heads=4, moe_intermediate_size=self.inner, n_shared_experts=2,
            n_routed_experts=self.experts, num_experts_per_tok=self.top_k, first_k_dense_replace=0, q_lora_rank=None,
            kv_lora_rank=self.width // 2, qk_rope_head_dim=head // 2, qk_nope_head_dim=head // 2, v_head_dim=head,
            routed_scaling_factor=1.0, max_position_embeddings=256, tie_word_embeddings=False, bos_token_id=None,
            eos_token_id=None, pad_token_id=None,
        )  # fmt: skip
        with global_seed(draw_seed(rng)):
            model: Module = transformers.DeepseekV2ForCausalLM(config)
        return model

    def build(self, data: Data[Any], *, rng: Generator) -> Module:
        """Train on `data` from scratch."""
        model = self.initial(child(rng))
        model.train()
        optimizer = AdamW(model.parameters(), lr=self.lr)
        fall = partial(_falling, steps=self.steps)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, fall)
        moes = moe_layers(model, "CharMoE")

        def objective(m: Module, batch: Batch) -> Tensor:
            seen: list[Tensor] = []
            with watching(moes, lambda moe, routed: seen.append(_imbalance(moe, routed))):
                loss: Tensor = data.task.losses(m, batch).mean()
            return loss + self.balance * torch.stack(seen).mean()

        epochs = -(-self.steps // data.steps)
        loop = Loop(schedule=schedule, clip=1.0, label="train the mixture of experts")

        def enough(step: Step) -> None:
            step.stop = step.index >= self.steps

        fit_(model, data, objective, optimizer, epochs=epochs, rng=rng, after_step=enough, loop=loop)
        return model.eval()


def _imbalance(moe: MoE, routed: Routed) -> Tensor:
    assert routed.logits is not None
    share = torch.bincount(routed.index.flatten(), minlength=moe.count) / routed.index.numel()
    return moe.count * (share * routed.logits.softmax(-1).mean(0)).sum()


def _falling(step: int, *, steps: int) -> float:
    return min((step + 1) / min(50, steps), max(0.1, 1 - 0.9 * step / steps))


def trained(
    seeds: Sequence[int] = (0,), *, recipe: CharMoE | None = None, cache: Path | None = None
) -> list[Module]:
    """Trained models, one a seed, from the cache where they are there.

    Args:
        seeds: of the trainings.
        recipe: how; the usual one unless given.
        cache: folder; the user's own unless given.
    """
    from ..parallel import build_models, default_cache

    train, _ = char_texts()
    return build_models(recipe or CharMoE(), train, list(seeds), jobs=1, cache=cache or default_cache())
