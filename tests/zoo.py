"""The zoo: tiny real models of torch, transformers, PEFT and diffusers, made on the spot with fixed seeds.

A contract suite goes through it like this, and never asks for a member's name:

    @pytest.mark.parametrize("member", zoo.members(kind="classifier", lacking="refuses deepcopy"), ids=str)
    def test_keeps_its_promise(member: zoo.Member) -> None:
        edited = METHOD.apply(member.model(), member.request(), rng=seeded(0))

`members` builds nothing, so it is cheap at collection and works where only torch is installed: a test whose member
needs an absent library is skipped when it asks for the model. All members of a kind read the same examples, drawn
from three classes that a model can learn. `model()` is the caller's own; texts are padded, on either side. A trait
is a fact that a method may trip over; tests/test_zoo.py checks each on the models themselves, so ask by trait (and
say what a method refuses: `having="recurrent"` must raise InputError) rather than by type or name.

Every module answers in bfloat16 too. A pipeline is diffusers' own object; it has no `data`: it is asked with
`PROMPTS` and drawn with `draw`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Literal, get_args

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from tests.zoo_diffusers import PROMPTS, draw, pipeline
from tests.zoo_torch import LSTM, Bag, DenseNet, Encoder, Tied, UNet, cnn, depthwise, drawn, normed
from unweave import Data, Request, seeded
from unweave.embedded.nets import ResNet, mlp
from unweave.random import global_seed
from unweave.tasks import CausalLM, Classify
from unweave.types import Batch

Kind = Literal[
    "classifier of vectors",
    "classifier of images",
    "classifier of series",
    "classifier of texts",
    "segmenter",
    "causal LM",
    "seq2seq",
    "contrastive",
    "pipeline",
]
Library = Literal["torch", "transformers", "peft", "diffusers"]
Padding = Literal["right", "left"]

__all__ = ["PROMPTS", "TRAITS", "ZOO", "Kind", "Library", "Member", "draw", "members", "texts"]

TRAITS = {
    "absolute positions": "left padding shifts what it computes",
    "adapters": "low-rank adapters over frozen weights; one factor is zero",
    "batch norm": "batch normalisation",
    "conv1d": "transformers' Conv1D, a transposed Linear",
    "depthwise": "a convolution with one filter a channel",
    "dropout": "answers at random in train mode",
    "flow": "a pipeline that matches flows: its scheduler has no noise levels",
    "frozen": "a parameter that asks for no gradient",
    "fused experts": "a parameter [experts, out, in]",
    "grouped queries": "fewer heads of keys and values than of queries",
    "padding_idx": "an embedding whose padding row is zero",
    "parametrised": "a weight computed by torch.nn.utils.parametrize",
    "recurrent": "an LSTM",
    "refuses deepcopy": "copy.deepcopy raises",
    "tied": "one parameter in two places",
    "v-prediction": "a pipeline whose denoiser predicts the velocity",
}
"""Trait -> what it says of a model."""

FEATURES, CLASSES, SIDE, STEPS = 8, 3, 16, 10
"""Width of a vector; classes; pixels of an image's side; steps of a series."""
VOCABULARY, TOKENS, PAD, BOS, EOS = 32, 12, 0, 1, 31
"""Token ids: padding, beginning, 27 words in thirds by class, end. `TOKENS` is the length of a row, padding included."""
MELS, FRAMES = 8, 32


# The user's own tasks, where no task of unweave reads such a batch.


@dataclass(frozen=True)
class ClassifyText:
    """One label a text: a batch is a dictionary of `input_ids`, `attention_mask` and `labels`."""

    classes: int

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        logits = self.outputs(model, batch)
        return F.cross_entropy(logits, self.labels(batch).to(logits.device), reduction="none")

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        return _logits(model(**_moved(model, batch, "input_ids", "attention_mask")))

    def labels(self, batch: Batch) -> Tensor:
        return batch["labels"]

    def relabel(self, batch: Batch, labels: Tensor) -> Batch:
        return {**batch, "labels": labels}


@dataclass(frozen=True)
class Segment:
    """One label a pixel: a batch is (images [n, c, h, w], classes [n, h, w]); a loss is the mean over pixels."""

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        logits = self.outputs(model, batch)
        return F.cross_entropy(logits, batch[1].to(logits.device), reduction="none").mean((1, 2))

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        return _logits(model(**_moved(model, {"x": batch[0]}, "x")))


@dataclass(frozen=True)
class Transcribe:
    """Sound to text: `input_features` [n, mels, frames] and `labels` [n, t]; -100 counts nowhere."""

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        logits = self.outputs(model, batch)
        labels = batch["labels"].to(logits.device)
        each = F.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
        return each.sum(1) / (labels >= 0).sum(1)

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        return _logits(model(**_moved(model, batch, "input_features", "labels")))


@dataclass(frozen=True)
class Contrast:
    """Images and their texts: an example's loss is the mean of finding its text and its image among the batch's."""

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        scores = self._read(model, batch).logits_per_image.float()
        own = torch.arange(len(scores), device=scores.device)
        by_image, by_text = (F.cross_entropy(side, own, reduction="none") for side in (scores, scores.T))
        return (by_image + by_text) / 2

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """Embeddings of image and text, [n, 2, width]."""
        out = self._read(model, batch)
        return torch.stack([out.image_embeds, out.text_embeds], 1).float()

    def _read(self, model: nn.Module, batch: Batch) -> Any:
        return model(**_moved(model, batch, "pixel_values", "input_ids", "attention_mask"))


def _moved(model: nn.Module, batch: Mapping[str, Tensor], *names: str) -> dict[str, Tensor]:
    """These inputs where the model is, floating ones in its type."""
    like = next(model.parameters())
    inputs = {name: batch[name].to(like.device) for name in names}
    return {name: x.to(like.dtype) if x.is_floating_point() else x for name, x in inputs.items()}


def _logits(out: Any) -> Tensor:
    return (out.logits if hasattr(out, "logits") else out).float()


# Examples, the same for every member of a kind. The first of every four texts has no padding.


@dataclass(frozen=True)
class Table(Dataset[Any]):
    """Examples as dictionaries of the columns' rows."""

    columns: Mapping[str, Tensor]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        return {name: column[i] for name, column in self.columns.items()}


def _around(shape: tuple[int, ...], n: int) -> tuple[Tensor, Tensor]:
    """Noisy copies of one centre a class, [n, *shape], and their classes [n]."""
    rng, labels = seeded(0), torch.arange(n) % CLASSES
    centres = torch.randn(CLASSES, *shape, generator=rng)
    return centres[labels] + torch.randn(n, *shape, generator=rng), labels


def texts(n: int, padding: Padding = "right") -> dict[str, Tensor]:
    """Token ids [n, t] that count upwards within their class's third, their attention masks and classes."""
    rng, labels, inner = seeded(1), torch.arange(n) % CLASSES, TOKENS - 2
    third = (VOCABULARY - 5) // CLASSES
    counted = torch.randint(third, (n, 1), generator=rng) + torch.arange(inner)
    noise = torch.randint(third * CLASSES, (n, inner), generator=rng)
    kept = torch.rand(n, inner, generator=rng) < 0.8
    words = 2 + torch.where(kept, labels[:, None] * third + counted % third, noise)
    lengths = torch.randint(3, inner, (n,), generator=rng)
    lengths[::4] = inner
    ids, mask = torch.full((n, TOKENS), PAD), torch.zeros(n, TOKENS, dtype=torch.long)
    for i, m in enumerate(lengths.tolist()):
        at = slice(0, m + 2) if padding == "right" else slice(TOKENS - m - 2, TOKENS)
        ids[i, at] = torch.cat([torch.tensor([BOS]), words[i, :m], torch.tensor([EOS])])
        mask[i, at] = 1
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def _examples(member: Member, n: int, padding: Padding) -> tuple[Any, Dataset[Any]]:
    """The task that reads this member's examples, and n of them."""
    kind, text = member.kind, texts(n, padding)
    words = {name: text[name] for name in ("input_ids", "attention_mask")}
    if kind == "classifier of texts":
        return ClassifyText(CLASSES), Table(text)
    if kind == "causal LM":
        return CausalLM(), Table(words)
    if kind == "seq2seq":
        said = words["input_ids"].masked_fill(words["attention_mask"] == 0, -100)
        return Transcribe(), Table({"input_features": _around((MELS, FRAMES), n)[0], "labels": said})
    shape = {"classifier of vectors": (FEATURES,), "classifier of series": (STEPS, FEATURES)}.get(
        kind, (3, SIDE, SIDE)
    )
    inputs, labels = _around(shape, n)
    if kind == "contrastive":
        return Contrast(), Table({**words, "pixel_values": inputs})
    if kind == "segmenter":
        return Segment(), TensorDataset(inputs, inputs.argmax(1))
    if member.library == "transformers":
        return Classify(CLASSES), Table({"pixel_values": inputs, "labels": labels})
    return Classify(CLASSES), TensorDataset(inputs, labels)


@dataclass(frozen=True, kw_only=True)
class Member:
    """One model of the zoo.

    Attributes:
        name: the id of its tests.
        kind: what it does, and so what it reads.
        make: makes it from torch's global generator; call `build` or `model`.
        library: that it comes from; where that is not installed, the test that asks for it is skipped.
        traits: facts about it, words of `TRAITS`.
    """

    name: str
    kind: Kind
    make: Callable[[], Any]
    library: Library = "torch"
    traits: frozenset[str] = frozenset()

    def __str__(self) -> str:
        return self.name

    def build(self, seed: int = 0) -> Any:
        """Make it anew, in eval mode."""
        pytest.importorskip(self.library, reason=f"{self.library} is not installed")
        with global_seed(seed):
            made = self.make()
        return made.eval() if isinstance(made, nn.Module) else made

    def model(self) -> Any:
        """A copy of the one that is kept; a new one where it cannot be copied."""
        return self.build() if "refuses deepcopy" in self.traits else deepcopy(_kept(self.name))

    def data(self, n: int = 24, *, batch_size: int = 4, padding: Padding = "right") -> Data[Any]:
        """n of this kind's examples; texts are padded on this side."""
        if self.kind == "pipeline":
            raise ValueError(f"{self.name} is a pipeline: ask it with PROMPTS, not with data.")
        if padding == "left" and not self.reads_text:
            raise ValueError(f"{self.name} reads no text that could be padded on the left.")
        task, examples = _examples(self, n, padding)
        return Data(examples, task, batch_size)

    @property
    def reads_text(self) -> bool:
        """Whether its batches are token ids with an attention mask."""
        return self.kind in ("classifier of texts", "causal LM", "contrastive")

    def request(self, *, batch_size: int = 4, padding: Padding = "right") -> Request[Any]:
        """Forget 6 examples, two a class, and retain 18; 12 are held out."""
        every = self.data(36, batch_size=batch_size, padding=padding)
        return Request.of(every.subset(range(24)), every.subset(range(24, 36)), range(5, 11))


@cache
def _kept(name: str) -> Any:
    return next(member for member in ZOO if member.name == name).build()


def members(
    kind: str = "", *, having: str | tuple[str, ...] = (), lacking: str | tuple[str, ...] = ()
) -> list[Member]:
    """The members of a kind, by traits; the kind may be the beginning of one ("classifier").

    Raises:
        ValueError: if there is no such kind or trait, or nothing is left.
    """
    wanted, unwanted = ({t} if isinstance(t, str) else set(t) for t in (having, lacking))
    if not any(k.startswith(kind) for k in get_args(Kind)) or (wanted | unwanted) - TRAITS.keys():
        raise ValueError(f"kinds are {get_args(Kind)}; traits are {tuple(TRAITS)}.")
    found = [m for m in ZOO if m.kind.startswith(kind) and wanted <= m.traits and not unwanted & m.traits]
    if not found:
        raise ValueError(
            f"no member of kind {kind!r} has {wanted or 'any trait'} and lacks {unwanted or 'none'}."
        )
    return found


# Models of transformers. Weights are drawn wider than by default: at 0.02 so small a model answers the same to all.

_SPECIAL = {"vocab_size": VOCABULARY, "pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS}
_BLOCKS = {"num_hidden_layers": 2, "num_attention_heads": 4, "initializer_range": 0.2}
_LLAMA = {
    **_SPECIAL, **_BLOCKS, "hidden_size": 16, "intermediate_size": 32, "num_key_value_heads": 2,
    "max_position_embeddings": 32, "tie_word_embeddings": False,
}  # fmt: skip
_GPT2 = {
    **_SPECIAL, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 32, "initializer_range": 0.2, "num_labels": CLASSES,
}  # fmt: skip
_VISION = {"num_channels": 3, "image_size": SIDE, "num_labels": CLASSES, "initializer_range": 0.2}
_VIT = {"hidden_size": 16, "intermediate_size": 32, "patch_size": 4}
_EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 8}


def _made(model: str, config: str, **settings: Any) -> nn.Module:
    """A model of transformers, by the names of its class and its config's."""
    import transformers

    return getattr(transformers, model)(getattr(transformers, config)(**settings))


def _clip() -> nn.Module:
    from transformers import CLIPConfig, CLIPModel

    text = (
        _SPECIAL | _BLOCKS | {"hidden_size": 16, "intermediate_size": 32, "max_position_embeddings": TOKENS}
    )
    vision = _BLOCKS | _VIT | {"image_size": SIDE}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))


def _lora() -> nn.Module:
    from peft import LoraConfig, get_peft_model

    base = _made("LlamaForCausalLM", "LlamaConfig", **_LLAMA)
    with warnings.catch_warnings():
        # PEFT asks transformers by a name that transformers is about to drop
        warnings.filterwarnings(
            "ignore", message=".*is_gradient_checkpointing. is deprecated", category=FutureWarning
        )
        return get_peft_model(
            base, LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
        )


def _member(kind: Kind, name: str, library: Library, make: Callable[[], Any], *traits: str) -> Member:
    return Member(name=name, kind=kind, make=make, library=library, traits=frozenset(traits))


_VECTORS = partial(_member, "classifier of vectors")
_IMAGES = partial(_member, "classifier of images")
_SERIES = partial(_member, "classifier of series")
_TEXTS = partial(_member, "classifier of texts")
_LMS = partial(_member, "causal LM")
_PIPELINES = partial(_member, "pipeline")

ZOO: tuple[Member, ...] = (
    _VECTORS("mlp", "torch", partial(mlp, FEATURES, 24, 24, CLASSES)),
    _VECTORS("mlp-bn", "torch", lambda: drawn(mlp(FEATURES, 24, 24, CLASSES, batch_norm=True)), "batch norm"),
    _VECTORS("weight-norm-old", "torch", lambda: normed(nn.utils.weight_norm, FEATURES, 24, 24, CLASSES), "refuses deepcopy"),
    _VECTORS(
        "weight-norm", "torch", lambda: normed(nn.utils.parametrizations.weight_norm, FEATURES, 24, 24, CLASSES), "parametrised"
    ),
    _IMAGES("cnn", "torch", partial(cnn, CLASSES, batch_norm=False)),
    _IMAGES("cnn-bn", "torch", partial(cnn, CLASSES, batch_norm=True), "batch norm"),
    _IMAGES("resnet-20", "torch", lambda: drawn(ResNet(20, CLASSES, width=4)), "batch norm"),
    _IMAGES("densenet", "torch", partial(DenseNet, CLASSES), "batch norm"),
    _IMAGES("depthwise", "torch", partial(depthwise, CLASSES), "batch norm", "depthwise"),
    _IMAGES(
        "vit", "transformers", partial(_made, "ViTForImageClassification", "ViTConfig", **_VISION | _VIT | _BLOCKS),
    ),
    _IMAGES(
        "swin", "transformers",
        partial(
            _made, "SwinForImageClassification", "SwinConfig", **_VISION, embed_dim=8, depths=[2, 1], num_heads=[2, 4],
            window_size=4, patch_size=2,
        ),
        "dropout",
    ),
    _IMAGES(
        "convnext", "transformers",
        partial(
            _made, "ConvNextForImageClassification", "ConvNextConfig", **_VISION, num_stages=2, hidden_sizes=[8, 16],
            depths=[1, 1], patch_size=2, layer_scale_init_value=0.5,
        ),
        "depthwise",
    ),
    _IMAGES(
        "resnet", "transformers",
        lambda: drawn(
            _made(
                "ResNetForImageClassification", "ResNetConfig", num_labels=CLASSES, embedding_size=8,
                hidden_sizes=[8, 16], depths=[1, 2], layer_type="basic",
            )
        ),
        "batch norm",
    ),
    _SERIES("lstm", "torch", partial(LSTM, FEATURES, CLASSES), "recurrent"),
    _SERIES("transformer-encoder", "torch", partial(Encoder, FEATURES, CLASSES), "dropout"),
    _TEXTS("embedding", "torch", partial(Bag, VOCABULARY, CLASSES, PAD), "padding_idx"),
    _TEXTS(
        "bert", "transformers",
        partial(
            _made, "BertForSequenceClassification", "BertConfig", **_SPECIAL, **_BLOCKS, hidden_size=16,
            intermediate_size=32, max_position_embeddings=TOKENS, num_labels=CLASSES,
        ),
        "dropout", "padding_idx", "absolute positions",
    ),
    _TEXTS(
        "gpt2-classifier", "transformers", partial(_made, "GPT2ForSequenceClassification", "GPT2Config", **_GPT2),
        "dropout", "conv1d", "absolute positions",
    ),
    _member("segmenter", "unet", "torch", partial(UNet, 3), "batch norm"),
    _LMS("tied", "torch", partial(Tied, VOCABULARY), "tied"),
    _LMS(
        "gpt2", "transformers", partial(_made, "GPT2LMHeadModel", "GPT2Config", **_GPT2),
        "dropout", "tied", "conv1d", "absolute positions",
    ),
    _LMS(
        "llama", "transformers", partial(_made, "LlamaForCausalLM", "LlamaConfig", **_LLAMA | {"pad_token_id": None}),
        "grouped queries",
    ),
    _LMS(
        "llama-tied", "transformers",
        partial(_made, "LlamaForCausalLM", "LlamaConfig", **_LLAMA | {"tie_word_embeddings": True}),
        "grouped queries", "tied", "padding_idx",
    ),
    _LMS("llama-lora", "peft", _lora, "grouped queries", "adapters", "frozen", "padding_idx"),
    _LMS(
        "qwen3", "transformers", partial(_made, "Qwen3ForCausalLM", "Qwen3Config", **_LLAMA, head_dim=8),
        "grouped queries", "padding_idx",
    ),
    _LMS(
        "mixtral", "transformers",
        partial(_made, "MixtralForCausalLM", "MixtralConfig", **_LLAMA, num_local_experts=4, num_experts_per_tok=2),
        "grouped queries", "fused experts", "padding_idx",
    ),
    _LMS(
        "qwen3-moe", "transformers",
        partial(
            _made, "Qwen3MoeForCausalLM", "Qwen3MoeConfig", **_LLAMA, **_EXPERTS, head_dim=8, num_experts=4,
            norm_topk_prob=True,
        ),
        "grouped queries", "fused experts", "padding_idx",
    ),
    _LMS(
        "deepseek-v3", "transformers",
        partial(
            _made, "DeepseekV3ForCausalLM", "DeepseekV3Config", **_LLAMA | {"num_key_value_heads": 4}, **_EXPERTS,
            n_routed_experts=4, n_shared_experts=1, n_group=2, topk_group=1, first_k_dense_replace=1, q_lora_rank=8,
            kv_lora_rank=8, qk_rope_head_dim=4, qk_nope_head_dim=4, v_head_dim=4,
        ),
        "fused experts", "padding_idx",
    ),
    _member(
        "seq2seq", "whisper", "transformers",
        partial(
            _made, "WhisperForConditionalGeneration", "WhisperConfig", **_SPECIAL, d_model=16, encoder_layers=2,
            decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=32,
            decoder_ffn_dim=32, num_mel_bins=MELS, max_source_positions=FRAMES // 2, max_target_positions=TOKENS,
            decoder_start_token_id=BOS, init_std=0.2,
        ),
        "tied", "frozen", "padding_idx",
    ),
    _member("contrastive", "clip", "transformers", _clip, "absolute positions"),
    _PIPELINES("sd", "diffusers", partial(pipeline, "sd")),
    _PIPELINES("sd-v", "diffusers", partial(pipeline, "sd-v"), "v-prediction"),
    _PIPELINES("sdxl", "diffusers", partial(pipeline, "sdxl")),
    _PIPELINES("pixart", "diffusers", partial(pipeline, "pixart")),
    _PIPELINES("sd3", "diffusers", partial(pipeline, "sd3"), "flow"),
    _PIPELINES("flux", "diffusers", partial(pipeline, "flux"), "flow"),
)  # fmt: skip
