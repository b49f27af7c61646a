"""A small Llama that has read Shakespeare, character by character; trained once a seed and cached."""

from __future__ import annotations

from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch.nn import Module
from torch.optim import AdamW

from claims.data import shared
from unweave import Data, Supervised
from unweave.parallel import build_models
from unweave.tasks import predict
from unweave.tasks.language import windows

LENGTH = 64
DATA = (
    "tiny Shakespeare by characters (192,000 to train on, 32,000 held out, windows of 64), a Llama of 3 blocks, width 96, "
    "feed-forward 256"
)


@lru_cache
def texts() -> tuple[Data[Any], Data[Any], int]:
    """Training windows, held-out windows, size of the vocabulary."""
    text = shared("text/tinyshakespeare.txt").read_text(encoding="utf-8")
    alphabet = {c: i for i, c in enumerate(sorted(set(text)))}
    ids = torch.tensor([alphabet[c] for c in text])
    return windows(ids[:192_000], LENGTH), windows(ids[-32_000:], LENGTH), len(alphabet)


def llama(vocabulary: int, activation: str = "silu") -> Module:
    """The untrained network."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=96, intermediate_size=256, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=LENGTH, hidden_act=activation, tie_word_embeddings=False,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def recipe(epochs: int = 6) -> Supervised:
    return Supervised(
        network=partial(llama, texts()[2]),
        epochs=epochs,
        lr=3e-3,
        optimizer=partial(AdamW, weight_decay=0.01),
    )


def trained(seed: int) -> Module:
    """The language model of this seed."""
    cache = Path("~/.cache/unweave/claims").expanduser()
    return build_models(recipe(), texts()[0], [seed], jobs=1, cache=cache, label="train a language model")[0]


def loss(model: Module, data: Data[Any] | None = None) -> float:
    """Mean held-out loss, nats a character."""
    data = data or texts()[1]
    return float(predict(model, data, data.task.losses).mean())
