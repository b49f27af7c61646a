"""Pipelines kept in half precision are trained in float32, and given back as they were kept."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor
from torch.nn import Module

from ..fit.precision import HALF
from ..models.text_to_image import Part, TextToImage

_PARTS: tuple[Part, ...] = ("denoiser", "text_encoder", "text_encoder_2")


def widened(model: TextToImage) -> TextToImage:
    """The pipeline in float32: itself if nothing in it is narrower, else a copy of its denoiser and text encoders.

    `fit_` would widen what it trains; here the teacher and the encoders follow, so that all read one dtype.
    """
    parts = [part for part in _PARTS if _narrow(getattr(model, part))]
    if not parts:
        return model
    wide = model.editable(*parts)
    for part in parts:
        for _, tensor in _tensors(getattr(wide, part)):
            if tensor.dtype in HALF:
                tensor.data = tensor.data.float()
    return wide


def narrowed(edited: TextToImage, given: TextToImage) -> TextToImage:
    """The edited pipeline with each tensor in the dtype that the given one has; what did not move keeps its bits.

    Args:
        edited: made from `widened(given)`; changed in place.
        given: before the edit.
    """
    for part in _PARTS:
        own = getattr(given, part)
        if not _narrow(own):
            continue
        kept = dict(_tensors(own))
        for name, tensor in _tensors(getattr(edited, part)):
            tensor.data = tensor.data.to(kept[name].dtype)
    return edited


def _narrow(part: Module | None) -> bool:
    return part is not None and any(t.dtype in HALF for _, t in _tensors(part))


def _tensors(part: Module) -> Iterator[tuple[str, Tensor]]:
    yield from part.named_parameters()
    yield from part.named_buffers()
