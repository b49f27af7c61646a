"""Activations of a small Llama that has read Shakespeare: after its first block, with gradients of its own answers."""

from __future__ import annotations

from functools import lru_cache, partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import Module
from torch.optim import AdamW
from torch.utils.data import TensorDataset

from claims.data import shared
from unweave import Data, Supervised
from unweave.interpret import Activations
from unweave.parallel import build_models
from unweave.tasks.language import windows

LAYER, LENGTH = "model.layers.0", 64
VECTORS, BATCH, STEPS, LATENTS = 60_000, 512, 500, 256
WORLD = (
    "tiny Shakespeare by characters (96,000 to train on, 16,000 held out, windows of 64), a Llama of 2 blocks, width 64; "
    "60,000 activations after its first block; 256 latents, 500 steps of 512"
)


@lru_cache
def texts() -> tuple[Data, Data, int]:
    """Training windows, held-out windows, size of the vocabulary."""
    text = shared("text/tinyshakespeare.txt").read_text(encoding="utf-8")
    alphabet = {c: i for i, c in enumerate(sorted(set(text)))}
    ids = torch.tensor([alphabet[c] for c in text])
    return windows(ids[:96_000], LENGTH), windows(ids[-16_000:], LENGTH), len(alphabet)


def llama(vocabulary: int) -> Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=LENGTH, tie_word_embeddings=False,
    )  # fmt: skip
    return LlamaForCausalLM(config)


@lru_cache(maxsize=1)
def activations(seed: int) -> tuple[Module, Tensor, Tensor]:
    """(model, activations [n, 64], gradients of its own likeliest answers there)."""
    torch.set_num_threads(1)
    train, _, vocabulary = texts()
    recipe = Supervised(
        network=partial(llama, vocabulary), epochs=6, lr=5e-3, optimizer=partial(AdamW, weight_decay=0.01)
    )
    cache = Path("~/.cache/unweave/claims").expanduser()
    model = build_models(recipe, train, [seed], jobs=1, cache=cache, label="train a language model")[0]
    x, g = Activations(model=model, data=train, layer=LAYER, label="argmax").gathered(VECTORS)
    return model, x, g


@lru_cache(maxsize=1)
def heldout(seed: int) -> Tensor:
    """The same of held-out text, [8192, 64]."""
    return Activations(model=activations(seed)[0], data=texts()[1], layer=LAYER).gathered(8192)[0]


def held(*tensors: Tensor) -> Data:
    return Data(TensorDataset(*tensors), None, BATCH)


EPOCHS = round(STEPS * BATCH / VECTORS)
FIT = {"latents": LATENTS, "lr": 2e-3, "batch_size": BATCH, "buffer": 2 * BATCH, "epochs": EPOCHS}
