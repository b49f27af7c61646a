"""A tiny random Llama, made on the spot, and a text to read."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from unweave import Data, seeded
from unweave.tasks.language import windows

VOCABULARY = 40


def llama(seed: int = 0, layers: int = 2, hidden: int = 32, ffn: int = 64) -> Any:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=hidden, intermediate_size=ffn, num_hidden_layers=layers, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=64, tie_word_embeddings=False,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return transformers.LlamaForCausalLM(config).eval()


def text(tokens: int = 640, length: int = 16) -> Data[Any]:
    """A Markov chain: each token tends to be followed by the next one."""
    rng = seeded(0)
    steps = (torch.rand(tokens, generator=rng) < 0.3) * torch.randint(
        VOCABULARY, (tokens,), generator=rng
    ) + 1
    return windows(steps.cumsum(0) % VOCABULARY, length, batch_size=8)
