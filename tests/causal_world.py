"""Folders of tiny random causal language models with a tokenizer made on the spot, and texts for them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

SENTENCE = "the quick brown fox jumps over the lazy dog and runs away. "
VOCABULARY, LONGEST = 80, 32


def tokenizer(chat: bool = False) -> Any:
    transformers, tokenizers = pytest.importorskip("transformers"), pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<unk>"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False
    )
    made.train_from_iterator([SENTENCE * 20, "\n"], trainer)
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    found = transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    if chat:
        found.chat_template = (
            "<s>{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}. {% else %}{{ m.content }}</s>"
            "{% endif %}{% endfor %}"
        )
    return found


def model(kind: str = "llama", dtype: torch.dtype = torch.float32) -> Any:
    transformers = pytest.importorskip("transformers")
    size = {
        "vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "max_position_embeddings": LONGEST, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    gated = {"intermediate_size": 64, "num_key_value_heads": 2}
    configs = {
        "llama": lambda: transformers.LlamaConfig(**size, **gated, tie_word_embeddings=True),
        "qwen3": lambda: transformers.Qwen3Config(**size, **gated, head_dim=8, tie_word_embeddings=False),
        "gpt2": lambda: transformers.GPT2Config(**size),
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return transformers.AutoModelForCausalLM.from_config(configs[kind]()).to(dtype).eval()


def folder(
    at: Path,
    kind: str = "llama",
    dtype: torch.dtype = torch.float32,
    shard: int | None = None,
    chat: bool = False,
) -> Path:
    made = model(kind, dtype)
    made.config.dtype = dtype
    made.generation_config.max_new_tokens = 7
    made.save_pretrained(at, **({} if shard is None else {"max_shard_size": shard}))
    tokenizer(chat).save_pretrained(at)
    (at / "LICENSE.txt").write_text("yours\n")
    return at


def running(at: Path, sentences: int = 60) -> Path:
    """Sentences whose words are drawn at random, so that no two windows are alike."""
    words = SENTENCE.replace(".", "").split()
    drawn = torch.randint(len(words), (sentences, 9), generator=torch.Generator().manual_seed(0)).tolist()
    at.write_text("\n".join(" ".join(words[i] for i in row) + "." for row in drawn) + "\n")
    return at


def lines(at: Path, rows: Sequence[Any]) -> Path:
    at.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return at


def prompts(at: Path, count: int = 24) -> Path:
    words = SENTENCE.split()[:9]
    rows = [
        {
            "prompt": f"{words[i % 9]} {words[i * 5 % 9]}",
            "answer": " ".join(words[(i * k) % 9] for k in (2, 3, 4)),
        }
        for i in range(1, count + 1)
    ]
    return lines(at, rows)
