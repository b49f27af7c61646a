"""Tiny random mixtures of experts of transformers, one of each layout that is read."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from unweave import Data, seeded
from unweave.tasks.language import windows

VOCABULARY = 40
EXPERTS = 8
_LLAMA = {
    "vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "tie_word_embeddings": False,
    "initializer_range": 0.3, "num_experts_per_tok": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_LATENT = {
    "num_key_value_heads": 4, "moe_intermediate_size": 12, "n_routed_experts": EXPERTS, "n_shared_experts": 2,
    "first_k_dense_replace": 1, "q_lora_rank": None, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4,
    "v_head_dim": 4,
}  # fmt: skip
MOES: dict[str, tuple[str, dict[str, Any]]] = {
    "mixtral": ("Mixtral", {"num_local_experts": EXPERTS}),
    "qwen2-moe": (
        "Qwen2Moe",
        {"num_experts": EXPERTS, "moe_intermediate_size": 12, "shared_expert_intermediate_size": 20},
    ),
    "qwen3-moe": (
        "Qwen3Moe", {"num_experts": EXPERTS, "moe_intermediate_size": 12, "head_dim": 8, "norm_topk_prob": True},
    ),
    "olmoe": ("Olmoe", {"num_experts": EXPERTS}),
    "deepseek-v2": ("DeepseekV2", _LATENT | {"routed_scaling_factor": 1.5}),
    "deepseek-v3": ("DeepseekV3", _LATENT | {"n_group": 2, "topk_group": 1}),
    "gpt-oss": ("GptOss", {"num_local_experts": EXPERTS, "head_dim": 8, "layer_types": ["full_attention"] * 3}),
    "llama4": (
        "Llama4", {"num_local_experts": EXPERTS, "head_dim": 8, "intermediate_size_mlp": 24, "moe_layers": [1, 2]},
    ),
}  # fmt: skip
"""Name -> stem of the classes, and settings."""


def moe(name: str, seed: int = 0, **settings: Any) -> Any:
    """A random causal LM; its correction biases and expert biases are not zero."""
    transformers = pytest.importorskip("transformers")
    stem, own = MOES[name]
    kind = getattr(transformers, f"{stem}TextConfig" if stem == "Llama4" else f"{stem}Config")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = getattr(transformers, f"{stem}ForCausalLM")(kind(**_LLAMA | own | settings)).eval()
        for tensor in [*model.parameters(), *model.buffers()]:
            if tensor.is_floating_point() and not tensor.any():
                torch.nn.init.normal_(tensor, std=0.1)
    return model


def text(tokens: int = 320, length: int = 16) -> Data[Any]:
    """A Markov chain: each token tends to be followed by the next one."""
    rng = seeded(0)
    steps = (torch.rand(tokens, generator=rng) < 0.3) * torch.randint(
        VOCABULARY, (tokens,), generator=rng
    ) + 1
    return windows(steps.cumsum(0) % VOCABULARY, length, batch_size=8)
