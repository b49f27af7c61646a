"""Images and the texts that belong to them, as CLIP reads them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import Module

from ..errors import InputError
from ..types import Batch

_READ = ("pixel_values", "input_ids", "attention_mask")


@dataclass(frozen=True)
class Contrast:
    """Each image is to be found by its text among the batch's, and the other way round.

    A batch is a dictionary of `pixel_values`, `input_ids` and perhaps `attention_mask`; the model is one of
    transformers that answers with `image_embeds`, `text_embeds` and `logits_per_image` (CLIPModel and its kin).

    Attributes:
        smoothing: share of the target that is spread over the whole batch.
    """

    smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.smoothing < 1:
            raise InputError(f"Contrast.smoothing must be from 0 to below 1; got {self.smoothing}.")

    def losses(self, model: Module, batch: Batch) -> Tensor:
        """Mean of both cross-entropies of each pair in nats, float32, [n]; they depend on the batch."""
        scores = self._read(model, batch).logits_per_image.float()
        own = torch.arange(len(scores), device=scores.device)
        sides = [
            F.cross_entropy(s, own, reduction="none", label_smoothing=self.smoothing)
            for s in (scores, scores.T)
        ]
        return (sides[0] + sides[1]) / 2

    def outputs(self, model: Module, batch: Batch) -> Tensor:
        """Embeddings of image and text, each of length 1, float32 [n, 2, width]."""
        out = self._read(model, batch)
        return F.normalize(torch.stack([out.image_embeds, out.text_embeds], 1).float(), dim=-1)

    def _read(self, model: Module, batch: Any) -> Any:
        device = next(model.parameters()).device
        return model(**{name: batch[name].to(device) for name in _READ if name in batch})
