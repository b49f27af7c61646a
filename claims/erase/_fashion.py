"""A larger world to erase in: clothes of Fashion-MNIST at 16x16 pixels, drawn from prompts by a UNet trained here.

Made as the small world of digits is (unweave.embedded.drawn_digits), on 15,000 images; about ten minutes of one core a seed,
kept in the same cache. Judged by a convolutional network of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam, AdamW
from torch.optim.lr_scheduler import LambdaLR

from claims.data import shared
from unweave import seeded
from unweave.embedded.drawn_digits import cache_folder
from unweave.erase import Concepts, TextToImage
from unweave.io.files import written_beside
from unweave.io.pipeline_folder import load_pipeline, save_pipeline
from unweave.models.text_to_image import noise_like, pick, train_steps_
from unweave.random import global_seed

CLOTHES = ("top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
TEMPLATES = ("a {}", "a photo of a {}", "an image of one {}", "a drawing of the {}")
LENGTH = 10
STEPS, BATCH = 800, 64
_WORDS = (
    "<start>",
    "<end>",
    "<unknown>",
    "a",
    "an",
    "of",
    "one",
    "the",
    "photo",
    "image",
    "drawing",
    "garment",
)


def concepts(*erase: str, guide: str = "garment") -> Concepts:
    """The request to erase these; the others are preserved."""
    kept = tuple(c for c in CLOTHES if c not in erase)
    bases = tuple(t.format("garment") for t in TEMPLATES)
    return Concepts(erase=erase, preserve=kept, guide=guide, templates=TEMPLATES, bases=bases)


def images(part: str = "train") -> tuple[Tensor, Tensor]:
    """[n, 1, 16, 16] between -1 and 1, and labels [n]."""
    packed = np.load(shared(f"fashion_mnist/{part}.npz"))
    raw = torch.from_numpy(packed["image"]).float()[:, None] / 127.5 - 1
    return F.avg_pool2d(F.pad(raw, (2, 2, 2, 2), value=-1), 2), torch.from_numpy(
        packed["label"].astype(np.int64)
    )


def world(seed: int = 0, without: Sequence[str] = ()) -> TextToImage:
    """A trained pipeline, from the cache if it is there."""
    left = "-".join(without)
    folder = cache_folder() / f"fashion-{seed}-{STEPS}{'-without-' * bool(left)}{left}"
    if not (folder / "model_index.json").exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        save_pipeline(_build(seed, without), folder)
    return load_pipeline(folder)


def _initial(seed: int) -> TextToImage:
    import diffusers
    import tokenizers
    import transformers

    words = [*_WORDS, *CLOTHES]
    inner = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unknown>")
    )
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    inner.post_processor = tokenizers.processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 0), ("<end>", 1)]
    )
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<start>", eos_token="<end>", pad_token="<end>", unk_token="<unknown>",
        model_max_length=LENGTH,
    )  # fmt: skip
    with global_seed(seed):
        encoder = transformers.CLIPTextModel(
            transformers.CLIPTextConfig(
                vocab_size=len(words), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
                num_attention_heads=4, max_position_embeddings=LENGTH, bos_token_id=0, eos_token_id=1, pad_token_id=1,
            )
        )  # fmt: skip
        denoiser = diffusers.UNet2DConditionModel(
            sample_size=16, in_channels=1, out_channels=1, block_out_channels=(32, 64), layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=64, attention_head_dim=4, norm_num_groups=8,
        )  # fmt: skip
    scheduler = diffusers.DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False
    )
    return TextToImage(denoiser=denoiser, text_encoder=encoder, tokenizers=[tokenizer], scheduler=scheduler)


def _build(seed: int, without: Sequence[str]) -> TextToImage:
    live, average = _initial(seed), _initial(seed).requires_grad_(False)
    x, y = images()
    shown = torch.isin(y, torch.tensor([i for i, c in enumerate(CLOTHES) if c not in without]))
    x, y = x[shown], y[shown]
    table, mask = live.tokens([t.format(c) for c in CLOTHES for t in TEMPLATES] + [""])
    parts: list[Any] = [[*m.denoiser.parameters(), *m.text_encoder.parameters()] for m in (live, average)]
    optimizer = AdamW(parts[0], lr=1e-3)
    schedule = LambdaLR(
        optimizer, lambda k: min((k + 1) / 100, 0.02 + 0.49 * (1 + math.cos(math.pi * min(1.0, k / STEPS))))
    )

    def loss(_: int) -> Tensor:
        at, t = pick(BATCH, len(x)), pick(BATCH, live.timesteps)
        clean = torch.where(torch.rand(BATCH, 1, 1, 1) < 0.5, x[at], x[at].flip(3))
        rows = torch.where(torch.rand(BATCH) < 0.1, len(table) - 1, y[at] * len(TEMPLATES) + pick(BATCH, 4))
        noise = noise_like(clean)
        text = live.encode_tokens((table[rows], mask[rows]))
        return F.mse_loss(live(live.add_noise(clean, noise, t), t, text), noise)

    def follow(step: Any) -> None:
        with torch.no_grad():
            torch._foreach_lerp_(parts[1], parts[0], 1 - min(0.99, step.index / (step.index + 10)))

    train_steps_(
        live, loss, parts[0], optimizer,
        steps=STEPS, rng=seeded(seed), label="world of clothes", clip=1.0, schedule=schedule, after_step=follow,
    )  # fmt: skip
    return average.requires_grad_(True)


class Judge(nn.Module):
    """Names the garment; accuracy on held-out real images in `accuracy`, per cent."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(),
            nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.3), nn.Linear(64 * 16, 128), nn.ReLU(), nn.Linear(128, 10),
        )  # fmt: skip
        self.accuracy = math.nan

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    @torch.no_grad()
    def named(self, x: Tensor) -> Tensor:
        """Index of the garment [n]; -1 where none reaches a probability of one half."""
        top, which = self(x).softmax(1).max(1)
        return torch.where(top < 0.5, -1, which)


@lru_cache(maxsize=1)
def judge() -> Judge:
    """Trained in about a minute, then kept."""
    from safetensors.torch import load_file, save_file

    path = cache_folder() / "judge-fashion.safetensors"
    with global_seed(0):
        made = Judge()
    if path.exists():
        made.load_state_dict(load_file(path))
    else:
        x, y = images()
        weights = list(made.parameters())

        def loss(_: int) -> Tensor:
            at = pick(64, len(x))
            return F.cross_entropy(made(x[at] + 0.05 * torch.randn_like(x[at])), y[at])

        train_steps_(
            made, loss, weights, Adam(weights, lr=1e-3), steps=1500, rng=seeded(0), label="judge of clothes"
        )
        with written_beside(path) as beside:
            save_file({k: v.contiguous() for k, v in made.state_dict().items()}, beside)
    made.eval()
    x, y = images("test")
    made.accuracy = 100 * float((made(x).argmax(1) == y).float().mean())
    return made
