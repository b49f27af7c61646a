"""Pictures with their prompts, the loop over steps that train on them, and pipelines that draw their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from ..errors import InputError
from ..models.text_to_image import Text, TextToImage
from .drawing import draw
from .guidance import CFG


@dataclass(frozen=True)
class Pictures:
    """Latents (a pipeline without VAE has pixels in their place) with the prompts they show.

    Attributes:
        latents: [n, c, h, w], as `TextToImage.latents` makes them of images.
        prompts: n of them.

    Raises:
        InputError: if their numbers differ, there is none, or a latent is not finite.
    """

    latents: Tensor
    prompts: Sequence[str]

    def __post_init__(self) -> None:
        if len(self.latents) != len(self.prompts) or not len(self.prompts):
            raise InputError(
                f"Pictures needs one prompt for each picture and at least one; got {len(self.latents)} pictures and "
                f"{len(self.prompts)} prompts."
            )
        if self.latents.ndim != 4 or not bool(self.latents.isfinite().all()):
            raise InputError(
                f"Pictures.latents must be finite numbers of shape [n, channels, height, width]; got "
                f"{tuple(self.latents.shape)}."
            )

    def __len__(self) -> int:
        return len(self.prompts)

    @classmethod
    def drawn(
        cls,
        model: TextToImage,
        prompts: Sequence[str],
        n: int,
        *,
        rng: Generator,
        steps: int = 20,
        guidance: float = 1.0,
        batch_size: int = 64,
    ) -> Pictures:
        """What a pipeline draws itself, n pictures, of each prompt in its turn; no image of anybody is needed.

        Raises:
            InputError: if there is no prompt.
        """
        if not prompts:
            raise InputError("Pictures.drawn needs at least one prompt.")
        asked = [prompts[i % len(prompts)] for i in range(n)]
        found = draw(
            model, asked, guidance=CFG(scale=guidance), steps=steps, rng=rng, batch_size=batch_size, decode=False
        )  # fmt: skip
        return cls(found, asked)

    def require_fit(self, model: TextToImage, who: str) -> None:
        """Raise unless the pipeline reads latents of this shape.

        Raises:
            InputError: naming both shapes.
        """
        if tuple(self.latents.shape[1:]) != tuple(model.shape):
            raise InputError(
                f"{who}: the pictures are of shape {tuple(self.latents.shape[1:])}, the pipeline reads "
                f"{tuple(model.shape)}. Make them with TextToImage.latents(images)."
            )

    @torch.no_grad()
    def encoded(self, model: TextToImage) -> tuple[Tensor, Text, Tensor]:
        """Latents, distinct prompts with the null one last (float32), each picture's row among them, int64 [n]."""
        distinct = list(dict.fromkeys(self.prompts))
        rows = torch.tensor([distinct.index(p) for p in self.prompts])
        return self.latents.float().to(model.device), model.encode([*distinct, ""]).to(torch.float32), rows
