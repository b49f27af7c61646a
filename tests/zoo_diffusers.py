"""The zoo's pipelines of diffusers: random weights, and tokenizers that know the words in `WORDS`."""

from __future__ import annotations

import inspect
from typing import Any, Literal

from torch import Tensor, nn

from unweave import seeded

PipelineKind = Literal["sd", "sd-v", "sdxl", "pixart", "sd3", "flux"]

WORDS = "a an the photo image of in on near cat dog bird golf ball church red blue park road table sunset at".split()
PROMPTS = ("a photo of a cat", "a red church near the road")
TOKENS, SIDE = 12, 16
"""What the text encoders read, and pixels of an image's side."""


def clip_tokenizer() -> Any:
    """CLIP's own class; words are one piece, others fall into letters."""
    from transformers import CLIPTokenizer

    pieces, merges = sorted({c for w in WORDS for c in w}), []
    vocab: dict[str, int] = {}
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
    return CLIPTokenizer(vocab=vocab, merges=list(dict.fromkeys(merges)), model_max_length=TOKENS)


def t5_tokenizer() -> Any:
    """For T5: a word tokenizer that ends in </s>; words not in `WORDS` are unknown."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

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
        model_max_length=TOKENS,
    )


def _clip_encoder(tokens: Any, *, projection: bool = False) -> nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=len(tokens), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=TOKENS, projection_dim=16, bos_token_id=tokens.bos_token_id,
        eos_token_id=tokens.eos_token_id, pad_token_id=tokens.pad_token_id,
    )  # fmt: skip
    return CLIPTextModelWithProjection(config) if projection else CLIPTextModel(config)


def _t5_encoder(tokens: Any, width: int) -> nn.Module:
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(
        T5Config(vocab_size=len(tokens), d_model=width, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    )


def _vae(**kinds: Any) -> nn.Module:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4, norm_num_groups=4, sample_size=SIDE, **kinds,
    )  # fmt: skip


def _unet(**kinds: Any) -> nn.Module:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(16, 32), norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        **kinds,
    )  # fmt: skip


_BETA = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def _sd() -> dict[str, Any]:
    from diffusers import PNDMScheduler

    tokens = clip_tokenizer()
    return {
        "vae": _vae(),
        "unet": _unet(cross_attention_dim=16, attention_head_dim=2),
        "text_encoder": _clip_encoder(tokens),
        "tokenizer": tokens,
        "scheduler": PNDMScheduler(**_BETA, skip_prk_steps=True, steps_offset=1),
    }


def _sd_v() -> dict[str, Any]:
    from diffusers import DDIMScheduler

    return _sd() | {
        "scheduler": DDIMScheduler(**_BETA, prediction_type="v_prediction", clip_sample=False, steps_offset=1)
    }


def _sdxl() -> dict[str, Any]:
    from diffusers import DDIMScheduler

    tokens = clip_tokenizer()
    return {
        "vae": _vae(),
        "unet": _unet(
            cross_attention_dim=32, attention_head_dim=(2, 4), use_linear_projection=True,
            addition_embed_type="text_time", addition_time_embed_dim=4, transformer_layers_per_block=(1, 2),
            projection_class_embeddings_input_dim=16 + 6 * 4,
        ),
        "text_encoder": _clip_encoder(tokens), "tokenizer": tokens,
        "text_encoder_2": _clip_encoder(tokens, projection=True), "tokenizer_2": clip_tokenizer(),
        "scheduler": DDIMScheduler(**_BETA),
    }  # fmt: skip


def _pixart() -> dict[str, Any]:
    from diffusers import DDIMScheduler, PixArtTransformer2DModel

    words = t5_tokenizer()
    return {
        "vae": _vae(),
        "transformer": PixArtTransformer2DModel(
            num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=2,
            cross_attention_dim=16, caption_channels=16, sample_size=8, patch_size=2, use_additional_conditions=False,
        ),
        "text_encoder": _t5_encoder(words, 16), "tokenizer": words, "scheduler": DDIMScheduler(**_BETA),
    }  # fmt: skip


def _flow() -> dict[str, Any]:
    from diffusers import FlowMatchEulerDiscreteScheduler

    return {
        "vae": _vae(shift_factor=0.06, scaling_factor=1.5, use_quant_conv=False, use_post_quant_conv=False),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0),
    }


def _sd3() -> dict[str, Any]:
    from diffusers import SD3Transformer2DModel

    tokens, words = clip_tokenizer(), t5_tokenizer()
    return _flow() | {
        "transformer": SD3Transformer2DModel(
            sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8,
            num_attention_heads=2, joint_attention_dim=32, caption_projection_dim=16, pooled_projection_dim=32,
            pos_embed_max_size=8,
        ),
        "text_encoder": _clip_encoder(tokens, projection=True), "tokenizer": tokens,
        "text_encoder_2": _clip_encoder(tokens, projection=True), "tokenizer_2": clip_tokenizer(),
        "text_encoder_3": _t5_encoder(words, 32), "tokenizer_3": words,
    }  # fmt: skip


def _flux() -> dict[str, Any]:
    from diffusers import FluxTransformer2DModel

    tokens, words = clip_tokenizer(), t5_tokenizer()
    return _flow() | {
        "transformer": FluxTransformer2DModel(
            patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=8,
            num_attention_heads=2, joint_attention_dim=16, pooled_projection_dim=16, axes_dims_rope=(2, 2, 4),
            guidance_embeds=True,
        ),
        "text_encoder": _clip_encoder(tokens), "tokenizer": tokens,
        "text_encoder_2": _t5_encoder(words, 16), "tokenizer_2": words,
    }  # fmt: skip


_UNCHECKED = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
_KINDS: dict[PipelineKind, tuple[str, Any, dict[str, Any]]] = {
    "sd": ("StableDiffusionPipeline", _sd, _UNCHECKED),
    "sd-v": ("StableDiffusionPipeline", _sd_v, _UNCHECKED),
    "sdxl": ("StableDiffusionXLPipeline", _sdxl, {}),
    "pixart": ("PixArtAlphaPipeline", _pixart, {}),
    "sd3": ("StableDiffusion3Pipeline", _sd3, {}),
    "flux": ("FluxPipeline", _flux, {}),
}


def parts(kind: PipelineKind) -> dict[str, Any]:
    """What a pipeline is made of, by the names of its constructor, drawn from torch's global generator."""
    return _KINDS[kind][1]()


def pipeline(kind: PipelineKind) -> Any:
    """The whole as diffusers' own object."""
    import diffusers

    name, made, settings = _KINDS[kind]
    components = made()
    for part in components.values():
        if isinstance(part, nn.Module):
            part.eval()  # as diffusers hands out what it reads; fresh ones drop out
    whole = getattr(diffusers, name)(**components, **settings)
    whole.set_progress_bar_config(disable=True)
    return whole


def draw(pipeline: Any, prompts: tuple[str, ...] = PROMPTS, *, steps: int = 2, seed: int = 0) -> Tensor:
    """Images [n, 3, 16, 16] in 0 to 1, drawn by the pipeline's own call."""
    wanted = {"clean_caption": False, "use_resolution_binning": False, "max_sequence_length": TOKENS}
    known = inspect.signature(pipeline.__call__).parameters
    return pipeline(
        list(prompts), num_inference_steps=steps, height=SIDE, width=SIDE, generator=seeded(seed), output_type="pt",
        **{name: value for name, value in wanted.items() if name in known},
    ).images  # fmt: skip
