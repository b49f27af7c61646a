"""CLIP and its kin as a classifier of images: the classes are texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import Linear, Module

from ..errors import InputError
from ..tasks import evaluating


class ZeroShot(Module):
    """Images -> logits over texts: the scaled cosine of their embeddings, as the model itself compares them.

    The texts are read once. Its last linear layer holds their embeddings, so that what lies under it is the image's.

    Args:
        model: with `get_image_features`, `get_text_features` and `logit_scale`, as transformers' CLIP has them; kept
            as a part.
        texts: what `get_text_features` reads, of two texts or more: `input_ids`, `attention_mask`.

    Raises:
        InputError: if the model lacks one of these, or there are fewer than two texts.
    """

    def __init__(self, model: Module, texts: Mapping[str, Tensor]) -> None:
        super().__init__()
        lacks = [
            n for n in ("get_image_features", "get_text_features", "logit_scale") if not hasattr(model, n)
        ]
        if lacks:
            raise InputError(
                f"ZeroShot needs a model of images and texts; this {type(model).__name__} has no {', '.join(lacks)}."
            )
        if len(texts["input_ids"]) < 2:
            raise InputError("ZeroShot needs at least two texts to choose between.")
        self.model = model
        with evaluating(model):
            embedded = _embedding(model.get_text_features(**texts))  # type: ignore[operator]
            scale = model.logit_scale.exp()  # type: ignore[operator]
            rows = scale * embedded / embedded.norm(dim=-1, keepdim=True)
        self.head = Linear(rows.shape[1], len(rows), bias=False)
        self.head.weight.data = rows.detach().clone()
        self.head.requires_grad_(False)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Images as the model reads them, [n, c, h, w] -> logits [n, texts]."""
        embedded = _embedding(self.model.get_image_features(pixel_values=pixel_values))  # type: ignore[operator]
        logits: Tensor = self.head(embedded / embedded.norm(dim=-1, keepdim=True))
        return logits


def _embedding(found: Any) -> Tensor:
    """Of transformers 5 an object with `pooler_output`, of other models a tensor."""
    embedded: Tensor = found.pooler_output if hasattr(found, "pooler_output") else found
    return torch.as_tensor(embedded)
