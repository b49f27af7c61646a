"""Tiny pipelines of random weights in the classes and layer names of Stable Diffusion 1.x, SDXL and PixArt."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import pytest

pytest.importorskip("diffusers", reason="the diffusion extra is not installed")

from unweave.erase import Concepts
from unweave.io.pipeline_folder import load_pipeline, save_pipeline
from unweave.models.text_to_image import TextToImage
from unweave.random import global_seed

Kind = Literal["sd", "sdxl", "pixart"]
KINDS: tuple[Kind, ...] = ("sd", "sdxl", "pixart")
WORDS = "a an the photo image of in on near cat dog bird golf ball church red blue park road table sunset at".split()

CONCEPTS = Concepts(
    erase=("cat", "golf ball"),
    preserve=("dog", "church"),
    templates=("a photo of a {}", "a {} in the park"),
    bases=("a photo", "a park"),
)


def tokenizer(kind: Kind, length: int = 12) -> Any:
    """CLIP's own class, words in one to three pieces; for T5 a word tokenizer that ends in </s>."""
    from transformers import CLIPTokenizer, PreTrainedTokenizerFast

    if kind == "pixart":
        from tokenizers import Tokenizer, models, pre_tokenizers, processors

        vocab = {w: i for i, w in enumerate(["<pad>", "</s>", "<unk>", *WORDS])}
        inner = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
        inner.pre_tokenizer = pre_tokenizers.Whitespace()
        inner.post_processor = processors.TemplateProcessing(
            single="$A </s>", special_tokens=[("</s>", vocab["</s>"])]
        )
        return PreTrainedTokenizerFast(
            tokenizer_object=inner,
            pad_token="<pad>",
            eos_token="</s>",
            unk_token="<unk>",
            model_max_length=length,
        )
    pieces, merges = sorted({c for w in WORDS for c in w}), []
    vocab = {}
    for piece in [*pieces, *(f"{c}</w>" for c in pieces)]:
        vocab.setdefault(piece, len(vocab))
    for word in WORDS:
        parts = [*word[:-1], f"{word[-1]}</w>"]
        while len(parts) > 1:
            merges.append((parts[0], parts[1]))
            parts[:2] = ["".join(parts[:2])]
            vocab.setdefault(parts[0], len(vocab))
    for special in ("<|startoftext|>", "<|endoftext|>"):
        vocab[special] = len(vocab)
    return CLIPTokenizer(vocab=vocab, merges=list(dict.fromkeys(merges)), model_max_length=length)


@lru_cache(maxsize=3)
def _made(kind: Kind, seed: int) -> TextToImage:
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        PixArtTransformer2DModel,
        PNDMScheduler,
        UNet2DConditionModel,
    )
    from transformers import (
        CLIPTextConfig,
        CLIPTextModel,
        CLIPTextModelWithProjection,
        T5Config,
        T5EncoderModel,
    )

    with global_seed(seed):
        tokens = tokenizer(kind)
        clip = CLIPTextConfig(
            vocab_size=len(tokens), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
            max_position_embeddings=12, projection_dim=16, bos_token_id=tokens.bos_token_id,
            eos_token_id=tokens.eos_token_id, pad_token_id=tokens.pad_token_id,
        )  # fmt: skip
        vae = AutoencoderKL(
            block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4, norm_num_groups=4, sample_size=16,
        )  # fmt: skip
        beta = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
        shared: dict[str, Any] = {
            "sample_size": 8, "in_channels": 4, "out_channels": 4, "layers_per_block": 1,
            "block_out_channels": (16, 32), "norm_num_groups": 8,
        }  # fmt: skip
        if kind == "pixart":
            t5 = T5Config(vocab_size=len(tokens), d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
            return TextToImage(
                denoiser=PixArtTransformer2DModel(
                    num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=2,
                    cross_attention_dim=16, caption_channels=16, sample_size=8, patch_size=2,
                    use_additional_conditions=False,
                ),
                text_encoder=T5EncoderModel(t5), tokenizers=[tokens], vae=vae, scheduler=DDIMScheduler(**beta),
            )  # fmt: skip
        blocks = {
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        }
        if kind == "sd":
            return TextToImage(
                denoiser=UNet2DConditionModel(**shared, **blocks, cross_attention_dim=16, attention_head_dim=2),
                text_encoder=CLIPTextModel(clip), tokenizers=[tokens], vae=vae,
                scheduler=PNDMScheduler(**beta, skip_prk_steps=True, steps_offset=1),
            )  # fmt: skip
        return TextToImage(
            denoiser=UNet2DConditionModel(
                **shared, **blocks, cross_attention_dim=32, attention_head_dim=(2, 4), use_linear_projection=True,
                addition_embed_type="text_time", addition_time_embed_dim=4, transformer_layers_per_block=(1, 2),
                projection_class_embeddings_input_dim=16 + 6 * 4,
            ),
            text_encoder=CLIPTextModel(clip), text_encoder_2=CLIPTextModelWithProjection(clip),
            tokenizers=[tokens, tokenizer(kind)], vae=vae, scheduler=DDIMScheduler(**beta),
        )  # fmt: skip


def pipeline(kind: Kind = "sd", seed: int = 0) -> TextToImage:
    """A pipeline of its own, in memory."""
    return deepcopy(_made(kind, seed))


@lru_cache(maxsize=3)
def folder(kind: Kind = "sd") -> Path:
    """The same, saved; do not write into it."""
    root = Path(tempfile.mkdtemp(prefix="unweave-pipeline-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    save_pipeline(_made(kind, 0), root / kind)
    return root / kind


def loaded(kind: Kind = "sd") -> TextToImage:
    return load_pipeline(folder(kind))
