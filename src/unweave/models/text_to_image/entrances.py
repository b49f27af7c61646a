"""Where prompts come into a denoiser: the linear layers that read what the text encoders wrote, and nothing else.

Of cross-attention these are every block's keys and values. Where text and picture attend to each other, what the
blocks' layers read depends on both; but all that a prompt says passes through two layers before the first block: the
one that makes every encoded token as wide as the blocks, and the first one that the pooled vector goes through.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ...errors import InputError
from .layers import Layers
from .pipeline import TextToImage
from .text import Text


@dataclass(frozen=True)
class Entrance:
    """Layers that read the same vectors of prompts.

    Attributes:
        layers: their kind; see `TextToImage.linears`.
        spans: (encoder, first position, tokens) of each text encoder's part of a prompt's vectors; none of the pooled
            one.
    """

    layers: Layers
    spans: tuple[tuple[int, int, int], ...]

    def read(self, model: TextToImage, text: Text) -> Tensor:
        """What these layers read of encoded prompts, [n, vectors, width].

        Raises:
            InputError: see `cross_inputs`.
        """
        if self.layers == "cross_kv":
            return cross_inputs(model, text)
        if self.layers == "context":
            return text.hidden
        assert text.pooled is not None
        return text.pooled[:, None]


def entrances(model: TextToImage) -> tuple[Entrance, ...]:
    """Where prompts come into a pipeline's denoiser."""
    if model.layout == "packed":
        return Entrance("context", ((1, 0, model.length(1)),)), Entrance("pooled", ())
    short = model.length(0)
    if model.layout == "joint":
        spans = ((0, 0, short), (2, short, model.length(2)))
        return Entrance("context", spans), Entrance("pooled", ())
    return (Entrance("cross_kv", ((0, 0, short),)),)


def cross_inputs(model: TextToImage, text: Text) -> Tensor:
    """What `attn2.to_k` and `attn2.to_v` read of encoded prompts, [n, tokens, width].

    Raises:
        InputError: if the denoiser turns text into that in a way that is not known here.
    """
    denoiser = model.denoiser
    projection = getattr(denoiser, "caption_projection", None)
    if projection is None:
        projection = getattr(denoiser, "encoder_hid_proj", None)
    hidden: Tensor = text.hidden if projection is None else projection(text.hidden)
    widths = {layer.in_features for layer in model.linears("cross_kv").values()}
    if widths != {hidden.shape[-1]}:
        raise InputError(
            f"the cross-attention of {type(denoiser).__name__} reads vectors of width {sorted(widths)}; text "
            f"reaches it {hidden.shape[-1]} wide, by a projection that is not known here."
        )
    return hidden
