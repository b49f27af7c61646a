"""stories260K, a Llama of 260,000 weights that was trained on TinyStories, as a transformers folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from unweave.errors import InputError

PLACE = Path(__file__).resolve().parents[2] / "shared" / "data"
"""Data that lie beside the repository, where they do."""


def write_folder(folder: Path, source: Path = PLACE / "weights" / "stories260k") -> Path:
    """Write the model with its tokenizer as transformers reads them, float32, head tied to the embedding.

    Args:
        folder: to write.
        source: folder of config.json, tokenizer.json and model.safetensors in llama2.c's names.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    if not (source / "model.safetensors").is_file():
        raise InputError(f"there is no stories260K in {source}.")
    told = json.loads((source / "config.json").read_text())
    heads, groups = told["n_heads"], told["n_kv_heads"]
    config = LlamaConfig(
        vocab_size=told["vocab_size"], hidden_size=told["dim"], intermediate_size=told["hidden_dim"],
        num_hidden_layers=told["n_layers"], num_attention_heads=heads, num_key_value_heads=groups,
        max_position_embeddings=told["max_seq_len"], rms_norm_eps=told["norm_eps"], tie_word_embeddings=True,
        bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    tensors = load_file(source / "model.safetensors")
    named = {
        "model.embed_tokens.weight": tensors["tok_embeddings.weight"],
        "model.norm.weight": tensors["norm.weight"],
    }
    places = {
        "attention_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attention.wo": "self_attn.o_proj",
        "attention.wv": "self_attn.v_proj", "feed_forward.w1": "mlp.gate_proj", "feed_forward.w2": "mlp.down_proj",
        "feed_forward.w3": "mlp.up_proj",
    }  # fmt: skip
    for i in range(told["n_layers"]):
        for theirs, ours in places.items():
            named[f"model.layers.{i}.{ours}.weight"] = tensors[f"layers.{i}.{theirs}.weight"]
        for letter, count in (("q", heads), ("k", groups)):
            rotated = halves(tensors[f"layers.{i}.attention.w{letter}.weight"], count)
            named[f"model.layers.{i}.self_attn.{letter}_proj.weight"] = rotated
    missing, unexpected = model.load_state_dict(named, strict=False)
    assert (missing, unexpected) == (["lm_head.weight"], [])
    model.save_pretrained(folder)
    _tokenizer(json.loads((source / "tokenizer.json").read_text())).save_pretrained(folder)
    return folder


def halves(weight: Tensor, heads: int) -> Tensor:
    """Rows of a query or key weight for a rotary embedding of halves, from one of interleaved pairs."""
    out, inputs = weight.shape
    return weight.view(heads, out // heads // 2, 2, inputs).transpose(1, 2).reshape(out, inputs).contiguous()


def _tokenizer(told: dict[str, Any]) -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers, processors
    from transformers import PreTrainedTokenizerFast

    special = {told["unk"]: "<unk>", told["bos"]: "<s>", told["eos"]: "</s>"}
    pieces = [special.get(i, p.encode("latin1").decode("utf8")) for i, p in enumerate(told["tokens"])]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    merges = [
        (piece[:cut], piece[cut:])
        for i, piece in enumerate(pieces) if i >= told["byte_offset"] + 256
        for cut in range(1, len(piece)) if piece[:cut] in vocabulary and piece[cut:] in vocabulary
    ]  # fmt: skip
    made = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    made.normalizer = normalizers.Prepend(" ")
    made.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", told["bos"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )


@torch.no_grad()
def told_stories(model: Any, tokens: int, *, seed: int, batch: int = 64, length: int = 256) -> Tensor:
    """Stories that the model itself tells, drawn at temperature 1 from its opening token: ids, [n]."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        rows: list[Tensor] = []
        while sum(map(len, rows)) < tokens:
            begun = torch.full((batch, 1), 1)
            found = model.generate(
                begun, attention_mask=torch.ones_like(begun), do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
                max_new_tokens=length - 1, pad_token_id=2, eos_token_id=2,
            )  # fmt: skip
            rows += list(found)
    return torch.cat(rows)[:tokens]
