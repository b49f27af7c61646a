"""A small world to erase in: handwritten digits in two styles, drawn from prompts by a diffusion model made here.

scikit-learn's digits (8x8 pixels), plain or negative; prompts in four templates that name the digit as a word or as a
numeral; a CLIP text encoder trained together with a UNet or a PixArt transformer that works on pixels (there is no
VAE: diffusers reads the folders with `from_pretrained(folder, vae=None)`, called with `output_type="latent"`).
`small_world(..., without=("three",))` is the oracle: trained without that digit's images and prompts.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.nn import Module
from torch.optim import Adam, AdamW
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import TensorDataset

from ..erase.concepts import Concepts
from ..errors import InputError, IntegrityError, require
from ..fit import Loop, Step, fit_, resumable
from ..io.files import file_lock, sweep_dead_partials
from ..io.nested import load_nested, save_nested
from ..io.pipeline_folder import load_pipeline, save_pipeline
from ..io.sealed import cache_home
from ..models.text_to_image import TextToImage
from ..random import global_seed, seeded
from ..settings import Count, Positive, Whole, settings
from ..types import Data

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
STYLES = ("plain", "negative")
TEMPLATES = (
    "a {style} {}",
    "a {style} photo of {}",
    "a {style} drawing of the digit {}",
    "image of a {style} {}",
)
BASES = (
    "a {style} digit",
    "a {style} photo of the digit",
    "a {style} drawing of the digit",
    "image of a {style} digit",
)
LENGTH = 10
"""Tokens of an encoded prompt, its beginning and end included."""


def cache_folder() -> Path:
    """Where trained worlds and judges are kept: in $UNWEAVE_CACHE, or ~/.cache/unweave."""
    return cache_home() / "testbed"


_WORDS = (
    *("<start>", "<end>", "<unknown>"),
    *("a", "photo", "drawing", "image", "of", "the", "digit"),
    *STYLES,
    *DIGITS,
    *map(str, range(10)),
)
_VERSION = 1


@settings
class DrawnDigits:
    """How a pipeline of the small world is made; equal ones are the same file in the cache.

    Attributes:
        architecture: "unet" (1.0 million weights) or "dit", a PixArt transformer (0.9 million).
        seed: of initial weights, order and noise.
        without: digits, as words, that are never shown or named.
        steps: of training; None is 1000 for the UNet, 2000 for the transformer.
        batch_size: images a step; None is 96 for the UNet, 128 for the transformer.
        lr: peak learning rate of AdamW.
    """

    architecture: Literal["unet", "dit"] = "unet"
    seed: Whole = 0
    without: tuple[str, ...] = ()
    steps: Count | None = None
    batch_size: Count | None = None
    lr: Positive = 1e-3

    def __post_init__(self) -> None:
        unknown = [w for w in self.without if w not in DIGITS]
        if unknown or len(set(self.without)) >= len(DIGITS):
            raise InputError(
                f"DrawnDigits.without must name some of {', '.join(DIGITS)}, not all; got {self.without}."
            )
        object.__setattr__(self, "without", tuple(sorted(set(self.without), key=DIGITS.index)))
        if self.steps is None:
            object.__setattr__(self, "steps", 1000 if self.architecture == "unet" else 2000)
        if self.batch_size is None:
            object.__setattr__(self, "batch_size", 96 if self.architecture == "unet" else 128)

    @property
    def name(self) -> str:
        """Its folder in the cache."""
        told = json.dumps([_VERSION, asdict(self)], sort_keys=True)
        return f"{self.architecture}-{self.seed}-{sha256(told.encode()).hexdigest()[:12]}"

    def initial(self) -> TextToImage:
        """The pipeline with random weights."""
        diffusers = require("diffusers", extra="diffusion", purpose="the small world")
        transformers = require("transformers", extra="diffusion", purpose="the small world")
        with global_seed(self.seed):
            text_encoder = transformers.CLIPTextModel(
                transformers.CLIPTextConfig(
                    vocab_size=len(_WORDS), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
                    num_attention_heads=4, max_position_embeddings=LENGTH, bos_token_id=0, eos_token_id=1,
                    pad_token_id=1,
                )
            )  # fmt: skip
            denoiser = (
                diffusers.UNet2DConditionModel(
                    sample_size=8, in_channels=1, out_channels=1, block_out_channels=(32, 64), layers_per_block=1,
                    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
                    up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
                    cross_attention_dim=64, attention_head_dim=4, norm_num_groups=8,
                )
                if self.architecture == "unet"
                else diffusers.PixArtTransformer2DModel(
                    sample_size=8, in_channels=1, out_channels=1, num_attention_heads=4, attention_head_dim=24,
                    num_layers=4, patch_size=2, activation_fn="geglu", caption_channels=64, cross_attention_dim=96,
                    use_additional_conditions=False,
                )
            )  # fmt: skip
        return TextToImage(
            denoiser=denoiser,
            text_encoder=text_encoder,
            tokenizers=[_tokenizer()],
            scheduler=diffusers.DDIMScheduler(
                beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False
            ),
        )

    def build(self) -> TextToImage:
        """Train it: three to six minutes of one core. The weights returned are a running mean (0.995)."""
        assert self.steps is not None
        assert self.batch_size is not None
        pair = _Averaged(self.initial(), self.initial())
        live = pair.live
        images, labels = _images()[0]
        shown = torch.tensor([i for i, word in enumerate(DIGITS) if word not in self.without])
        images, labels = images[torch.isin(labels, shown)], labels[torch.isin(labels, shown)]
        rng = seeded(self.seed)
        n = self.steps * self.batch_size
        chosen = torch.randint(len(images), (n,), generator=rng)
        style = torch.randint(2, (n,), generator=rng)
        template = torch.randint(len(TEMPLATES), (n,), generator=rng)
        numeral = (torch.rand(n, generator=rng) < 0.3).long()
        null = torch.rand(n, generator=rng) < 0.1
        table, mask = live.tokens(
            [prompt(d, s, t, k) for d in range(10) for s in range(2) for t in range(4) for k in (0, 1)] + [""]
        )
        row = ((labels[chosen] * 2 + style) * 4 + template) * 2 + numeral
        row[null] = len(table) - 1
        trained: list[Tensor] = [*live.denoiser.parameters(), *live.text_encoder.parameters()]
        optimizer = AdamW(trained, lr=self.lr)
        steps = self.steps
        schedule = LambdaLR(
            optimizer,
            lambda k: min((k + 1) / 100, 0.02 + 0.49 * (1 + math.cos(math.pi * min(1.0, k / steps)))),
        )

        def noise_error(model: Module, batch: Any) -> Tensor:
            at, styles, rows = batch
            clean = images[at] * (1 - 2 * styles).view(-1, 1, 1, 1)
            t = torch.randint(live.timesteps, (len(clean),))
            noise = torch.randn_like(clean)
            text = live.encode_tokens((table[rows], mask[rows]))
            return F.mse_loss(live(live.add_noise(clean, noise, t), t, text), noise)

        def average(step: Step) -> None:
            with torch.no_grad():
                keep = min(0.995, step.index / (step.index + 10))
                means: list[Tensor] = [
                    *pair.average.denoiser.parameters(),
                    *pair.average.text_encoder.parameters(),
                ]
                torch._foreach_lerp_(means, trained, 1 - keep)

        data = Data(TensorDataset(chosen, style, row), _Steps(), self.batch_size)
        fit_(
            pair, data, noise_error, optimizer,
            epochs=1, rng=rng,
            loop=Loop(schedule=schedule, clip=1.0, ordered=True, label="small world"),
            after_step=average,
        )  # fmt: skip
        return pair.average

    def trained(self, cache: Path | None = None, *, device: str = "cpu") -> TextToImage:
        """What `build` returns, from the cache if it is there; else trained, kept and resumable.

        Args:
            cache: folder; `cache_folder()` unless given.
            device: to put it on; it is trained on the CPU.
        """
        folder = (cache or cache_folder()) / self.name
        unfinished = folder.with_name(f"{folder.name}.unfinished")
        with file_lock(folder.with_name(f"{folder.name}.lock"), wait=True):
            sweep_dead_partials(folder.parent, folder.name)
            if not (folder / "model_index.json").exists():
                with resumable(unfinished):
                    save_pipeline(self.build(), folder)
            shutil.rmtree(unfinished, ignore_errors=True)
        return load_pipeline(folder, device=device)


def small_world(
    architecture: Literal["unet", "dit"] = "unet",
    seed: int = 0,
    without: Sequence[str] = (),
    *,
    cache: Path | None = None,
    device: str = "cpu",
) -> TextToImage:
    """A trained pipeline of the small world: see `DrawnDigits` and its `trained`."""
    made = DrawnDigits(architecture=architecture, seed=seed, without=tuple(without))
    return made.trained(cache, device=device)


def prompt(digit: int, style: int = 0, template: int = 2, numeral: int = 0) -> str:
    """One prompt: `prompt(3)` is "a plain drawing of the digit three"; with numeral=1 it ends in 3."""
    return (
        TEMPLATES[template].replace("{style}", STYLES[style]).format(str(digit) if numeral else DIGITS[digit])
    )


def concepts(
    *erase: str,
    preserve: Sequence[str] | None = None,
    guide: str | Mapping[str, str] = "digit",
    **settings: Any,
) -> Concepts:
    """The request to erase these digits, with this world's own templates in both styles.

    Args:
        erase: digits as words.
        preserve: the other digits, unless given.
        guide: what each is turned into, or concept -> guide.
        settings: further fields of `Concepts`.
    """

    def both(texts: Sequence[str]) -> tuple[str, ...]:
        return tuple(t.replace("{style}", s) for t in texts for s in STYLES)

    kept = tuple(d for d in DIGITS if d not in erase) if preserve is None else tuple(preserve)
    made = Concepts(erase=erase, preserve=kept, guide=guide, templates=both(TEMPLATES), bases=both(BASES))
    return replace(made, **settings) if settings else made


class Judge(Module):
    """Names the digit and the style of an image, or rejects it: what is no digit has no label.

    Attributes:
        accuracy: per cent of held-out real images whose digit it names.
        style_accuracy: the same of the style.
    """

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.ReLU(),
            nn.Flatten(), nn.Linear(64 * 16, 64), nn.ReLU(),
        )  # fmt: skip
        self.digit, self.style = nn.Linear(64, 10), nn.Linear(64, 2)
        self.accuracy = self.style_accuracy = float("nan")

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the digit [n, 10] and of the style [n, 2] of images [n, 1, 8, 8] between -1 and 1."""
        features = self.features(images)
        return self.digit(features), self.style(features)

    def features(self, images: Tensor) -> Tensor:
        """What both heads read, [n, 64]: for distances between sets of images."""
        features: Tensor = self.body(images)
        return features

    @torch.no_grad()
    def digits(self, images: Tensor, reject: float = 0.5) -> Tensor:
        """Digit of each image, int64 [n]; -1 where no digit reaches the probability `reject`."""
        top, named = self(images)[0].softmax(1).max(1)
        named[top < reject] = -1
        return named  # type: ignore[no-any-return]

    @torch.no_grad()
    def styles(self, images: Tensor) -> Tensor:
        """Style of each image, int64 [n]."""
        return self(images)[1].argmax(1)  # type: ignore[no-any-return]


def judge(seed: int = 0, *, cache: Path | None = None) -> Judge:
    """A trained judge, from the cache if it is there; else trained in about ten seconds and kept."""
    path = (cache or cache_folder()) / f"judge-{seed}-v{_VERSION}.state.safetensors"
    with global_seed(seed):
        made = Judge()
    (images, labels), (test_images, test_labels) = _images()
    with file_lock(path.with_suffix(".lock"), wait=True):
        sweep_dead_partials(path.parent, path.name)
        try:
            made.load_state_dict(load_nested(path))
        except (FileNotFoundError, IntegrityError):
            _taught(made, images, labels, seed)
            save_nested(made.state_dict(), path)
    made.eval()
    with torch.no_grad():
        named, styled = made(torch.cat([test_images, -test_images]))
    made.accuracy = 100 * float((named.argmax(1) == test_labels.repeat(2)).float().mean())
    which = torch.arange(2).repeat_interleave(len(test_images))
    made.style_accuracy = 100 * float((styled.argmax(1) == which).float().mean())
    return made


def _taught(made: Judge, images: Tensor, labels: Tensor, seed: int) -> None:
    data = Data(
        TensorDataset(torch.cat([images, -images]), labels.repeat(2), torch.arange(2).repeat_interleave(len(images))),
        _Steps(), 64,
    )  # fmt: skip

    def error(model: Module, batch: Any) -> Tensor:
        x, digit, which = batch
        shift = torch.randint(-1, 2, (2,)).tolist()
        moved = torch.roll(x, shift, (2, 3)) if torch.rand(()) < 0.3 else x
        named, styled = model(moved + 0.1 * torch.randn_like(x))
        return F.cross_entropy(named, digit, label_smoothing=0.05) + F.cross_entropy(styled, which)

    optimizer, loop = Adam(made.parameters(), lr=1e-3), Loop(label="judge")
    fit_(made, data, error, optimizer, epochs=20, rng=seeded(seed), loop=loop)


def real_images(
    digits: Sequence[str] = DIGITS, rng: Generator | None = None, *, heldout: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Real images of these digits in both styles, of training or held out: images [n, 1, 8, 8], digits, styles [n]."""
    images, labels = _images()[heldout]
    chosen = torch.isin(labels, torch.tensor([DIGITS.index(d) for d in digits]))
    images, labels = images[chosen], labels[chosen]
    both, styles = torch.cat([images, -images]), torch.arange(2).repeat_interleave(len(images))
    order = torch.arange(len(both)) if rng is None else torch.randperm(len(both), generator=rng)
    return both[order], labels.repeat(2)[order], styles[order]


def _images() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    images = (torch.tensor(bunch.data, dtype=torch.float32) / 8 - 1).view(-1, 1, 8, 8)
    labels = torch.tensor(bunch.target, dtype=torch.long)
    order = torch.randperm(len(images), generator=seeded(0))
    return (images[order[:1400]], labels[order[:1400]]), (images[order[1400:]], labels[order[1400:]])


def _tokenizer() -> Any:
    tokenizers = require("tokenizers", extra="diffusion", purpose="the small world")
    transformers = require("transformers", extra="diffusion", purpose="the small world")
    inner = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({w: i for i, w in enumerate(_WORDS)}, unk_token="<unknown>")
    )
    inner.normalizer = tokenizers.normalizers.Lowercase()
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    inner.post_processor = tokenizers.processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 0), ("<end>", 1)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<start>", eos_token="<end>", pad_token="<end>",
        unk_token="<unknown>", model_max_length=LENGTH,
    )  # fmt: skip


class _Averaged(Module):
    def __init__(self, live: TextToImage, average: TextToImage) -> None:
        super().__init__()
        self.live, self.average = live, average.requires_grad_(False)


class _Steps:
    """Batches that only the objective here opens."""

    def losses(self, model: Module, batch: Any) -> Tensor:
        raise NotImplementedError

    outputs = losses
