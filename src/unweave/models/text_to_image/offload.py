"""Text encoders and VAE kept off the device while they are idle, and brought there part by part when they work."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from .pipeline import TextToImage

_REST = torch.device("cpu")
_MARK = "rests_while_idle"
"""Set on parts that do; copies of them keep it, as they keep the hooks."""


def offload_(model: TextToImage, device: torch.device) -> TextToImage:
    """Put the denoiser on a device, and the rest on the CPU, from where each part comes while it works.

    A part stays on the device while gradients are recorded, as the graph refers to its weights, until it works again
    without. What is computed stays the same. Copies of the pipeline (`TextToImage.editable`) are as it is.

    Args:
        model: changed in place, and handed back.
        device: where the denoiser works, and each part when its turn comes.
    """
    model.denoiser.to(device)
    for part in _parts(model):
        part.to(_REST)
        setattr(part, _MARK, True)
        part.register_forward_pre_hook(_Comes(device), with_kwargs=True)
        part.register_forward_hook(_goes)
    return model


def is_offloaded(model: TextToImage) -> bool:
    """Whether a pipeline's text encoders and VAE rest on the CPU while they are idle."""
    return hasattr(model.text_encoder, _MARK)


class _Comes:
    """Brings a part, and what it is called with, to a device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def __call__(
        self, part: Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        part.to(self.device)
        return tuple(self._brought(a) for a in args), {k: self._brought(v) for k, v in kwargs.items()}

    def _brought(self, value: Any) -> Any:
        return value.to(self.device) if isinstance(value, Tensor) else value


def _goes(part: Module, args: Any, out: Any) -> None:
    if not torch.is_grad_enabled():
        part.to(_REST)


def _parts(model: TextToImage) -> Iterator[Module]:
    """What is idle at times: encoders whole, and a VAE in its parts, as nothing calls it as a whole."""
    yield from model.encoders
    if model.vae is not None:
        yield from model.vae.children()
