"""What the claims of drawing share: the small world of digits, its judge's features, and figures of what is drawn."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from unweave import seeded
from unweave.audit.drawing.figures import frechet
from unweave.audit.drawing.looks import brightness, clipped, contrast, recall, wasserstein
from unweave.embedded.drawn_digits import DIGITS, STYLES, DrawnDigits, Judge, judge, prompt, real_images
from unweave.generate import CFG, draw
from unweave.models.text_to_image import TextToImage
from unweave.settings import settings

SEEDS = (0, 1, 2)
DATA = "scikit-learn digits in two styles, drawn from prompts by a diffusion model trained on them (the small world)"
PROMPTS = tuple(prompt(d, s, t) for d in range(10) for s in range(len(STYLES)) for t in range(4))
STEPS = 20


@lru_cache(maxsize=4)
def original(seed: int, steps: int | None = None) -> TextToImage:
    """The pipeline that knows all digits, or one of fewer steps of training; never change it."""
    return DrawnDigits(seed=seed, steps=steps).trained()


@settings
class Flawed(DrawnDigits):
    """The world under a schedule of 250 steps whose last still holds 8 % of the signal's variance."""

    @property
    def name(self) -> str:
        """Its folder in the cache."""
        return f"flawed-{super().name}"

    def initial(self) -> TextToImage:
        """The pipeline with random weights."""
        import diffusers

        made = super().initial()
        scheduler = diffusers.DDIMScheduler(
            num_train_timesteps=250, beta_start=1e-4, beta_end=0.02, beta_schedule="linear",
            timestep_spacing="trailing", clip_sample=False,
        )  # fmt: skip
        return TextToImage(
            denoiser=made.denoiser,
            text_encoder=made.text_encoder,
            tokenizers=made.tokenizers,
            scheduler=scheduler,
        )


@lru_cache(maxsize=1)
def the_judge() -> Judge:
    return judge()


@torch.no_grad()
def features(images: Tensor) -> Tensor:
    return the_judge().features(images)


@lru_cache(maxsize=1)
def real() -> Tensor:
    return real_images(rng=seeded(0))[0]


def asked(n: int) -> list[str]:
    """n prompts, all digits, styles and templates in their turn."""
    return [PROMPTS[i % len(PROMPTS)] for i in range(n)]


def drawn(model: TextToImage, n: int, seed: int, guidance: Any = None, **more: Any) -> Tensor:
    """Pictures of n prompts; the same noise for every method of a seed."""
    told = {"steps": STEPS, "batch_size": 200} | more
    return draw(model, asked(n), guidance=guidance or CFG(scale=1.0), rng=seeded(20_000 + seed), **told)


def digit_accuracy(images: Tensor) -> float:
    """Per cent of `asked` pictures whose digit the judge names rightly."""
    wanted = torch.tensor(
        [next(k for k, w in enumerate(DIGITS) if p.endswith(w)) for p in asked(len(images))]
    )
    return 100 * float((the_judge().digits(images) == wanted).float().mean())


def style_accuracy(images: Tensor) -> float:
    """Per cent of them in the style that was asked for."""
    wanted = torch.tensor(
        [next(k for k, w in enumerate(STYLES) if w in p.split()) for p in asked(len(images))]
    )
    return 100 * float((the_judge().styles(images) == wanted).float().mean())


def distance(images: Tensor, to: Tensor | None = None) -> float:
    """Fréchet distance in the judge's features."""
    return frechet(features(images), features(real() if to is None else to))


def variety(images: Tensor) -> float:
    """Recall in the judge's features, in per cent of as many real images."""
    return 100 * recall(features(images), features(real()[: len(images)]))


def past_the_range(images: Tensor) -> float:
    """Per cent of values beyond 1.05 in size."""
    return 100 * float(clipped(images).mean())


def spread(images: Tensor) -> float:
    """Mean contrast of an image."""
    return float(contrast(images).mean())


def brightness_gap(images: Tensor) -> float:
    """W1 between the brightness of these and of real images."""
    return wasserstein(brightness(images), brightness(real()))


@settings
class Deep(DrawnDigits):
    """The world with two layers a stage, and attention at both sizes, so that there is something to remove."""

    @property
    def name(self) -> str:
        """Its folder in the cache."""
        return f"deep-{super().name}"

    def initial(self) -> TextToImage:
        """The pipeline with random weights."""
        import diffusers

        from unweave.random import global_seed

        made: Any = super().initial()
        with global_seed(self.seed):
            made.denoiser = diffusers.UNet2DConditionModel(
                sample_size=8, in_channels=1, out_channels=1, block_out_channels=(32, 64), layers_per_block=2,
                down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
                cross_attention_dim=64, attention_head_dim=4, norm_num_groups=8,
            ).eval()  # fmt: skip
        return made  # type: ignore[no-any-return]
