"""Are latents that spoke of what was to be forgotten still active? A figure beside the probes; no verdict rests on it.

A dictionary (sparse autoencoder) of one layer of the original gives each example a mean code. On every second example
those latents are chosen whose codes set the forgotten side apart from the other in the original, in its own standard
deviations; on the rest of the examples it is measured how far they do in each model. Choice and measurement share no
example, so that a dictionary that knows nothing gives about 0. It has no controls: an edit may move what the layer says
to other directions, which this dictionary does not see.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import Module

from ..errors import InputError
from ..interpret import SparseAutoencoder
from ..interpret.activations import read_layer
from ..interpret.drawn import drawn_activations
from ..interpret.layers import find_layer
from ..models.text_to_image import TextToImage
from ..tasks import Padded
from ..types import Data, Measurement
from .measured import measurement

M = TypeVar("M", bound=Module)
NAME = "latents of what was forgotten, still active"
MOST = 16
"""Latents that are followed, at most."""
LEAST = 4
"""Examples on each side: two to choose by, two to measure on."""


@dataclass(frozen=True)
class Speaking:
    """Latents that set two sides apart in the model that they were chosen on.

    Attributes:
        which: the latents, the clearest first, int64 [m].
        spread: standard deviation of each one's code within a side, [m].
    """

    which: Tensor
    spread: Tensor

    @classmethod
    def of(cls, forget: Tensor, others: Tensor, most: int = MOST) -> Speaking:
        """Choose by mean codes [n, latents] of either side; fewer than `most` where fewer speak of the first."""
        gap = forget.mean(0) - others.mean(0)
        spread = ((forget.var(0, correction=0) + others.var(0, correction=0)) / 2).sqrt()
        floor = 1e-6 * float(torch.cat([forget, others]).abs().max().clamp(min=1e-12))
        clear = torch.where(gap > floor, gap / spread.clamp(min=floor), torch.zeros_like(gap))
        which = clear.topk(min(most, len(clear))).indices
        which = which[clear[which] > 0]
        return cls(which, spread[which].clamp(min=floor))

    def gap(self, forget: Tensor, others: Tensor) -> float:
        """How far apart they set two sides: mean over the latents, in standard deviations; 0 where none was chosen."""
        if not len(self.which):
            return 0.0
        apart = forget[:, self.which].mean(0) - others[:, self.which].mean(0)
        return float((apart / self.spread).mean())


def still_active(
    codes: Callable[[M], tuple[Tensor, Tensor]],
    edited: M,
    original: M,
    oracles: Sequence[M] = (),
    *,
    layer: str,
    most: int = MOST,
) -> Measurement:
    """The figure, of any kind of model.

    Args:
        codes: model -> mean codes [n, latents] of examples of the forgotten side, and of others.
        edited: in question.
        original: that the dictionary was learnt of.
        oracles: models that never saw the forgotten side.
        layer: named in the note.
        most: latents to follow.

    Raises:
        InputError: if a side has fewer than four examples.
    """
    own = codes(original)
    if min(map(len, own)) < LEAST:
        raise InputError(
            f"{NAME}: a half of the examples chooses latents and the other measures, so each side needs at least "
            f"{LEAST}; got {len(own[0])} forgotten and {len(own[1])} others."
        )
    speaking = Speaking.of(own[0][::2], own[1][::2], most)

    def gap(forget: Tensor, others: Tensor) -> float:
        return speaking.gap(forget[1::2], others[1::2])

    return measurement(
        NAME, gap(*codes(edited)), gap(*own), [gap(*codes(o)) for o in oracles], unit="standard deviations",
        direction="near the retrained models; near the original, the forgotten is still told apart",
        n=len(own[0][1::2]),
        note=f"{len(speaking.which)} latents of {layer}, by a dictionary of the original; no verdict rests on it",
    )  # fmt: skip


def codes_of(model: Module, sae: SparseAutoencoder, layer: str, data: Data[Any]) -> Tensor:
    """Mean code of each example over its places, padding left out, [n, latents].

    Raises:
        EmptyDataError: if `data` is empty.
        InputError: if there is no such layer, or its width is not the dictionary's.
    """
    data.require_examples("reading latents")
    found = []
    for batch in data.batches():
        x = read_layer(model, batch, data.task, layer)
        with torch.no_grad():
            codes = sae.encode(x.to(sae.W_dec)).double().cpu()
        codes = codes.flatten(1, -2) if codes.ndim > 2 else codes[:, None]
        if not isinstance(data.task, Padded):
            found.append(codes.mean(1))
            continue
        present = data.task.present(batch).to(codes).flatten(1)[..., None]
        found.append((codes * present).sum(1) / present.sum(1).clamp(min=1))
    return torch.cat(found)


def still_active_read(
    sae: SparseAutoencoder,
    layer: str,
    forget: Data[Any],
    others: Data[Any],
    *,
    edited: Module,
    original: Module,
    oracles: Sequence[Module] = (),
    most: int = MOST,
) -> Measurement:
    """The figure of a model that reads examples: texts to forget beside texts that were never learnt, say.

    Args:
        sae: a dictionary of that layer of the original.
        layer: name in `named_modules`, of every model.
        forget: examples of the forgotten side.
        others: of the other.
        edited: left unchanged, as all models are.
        original: see `still_active`.
        oracles: see `still_active`.
        most: latents to follow.

    Raises:
        EmptyDataError: if a side is empty.
        InputError: as `still_active` and `codes_of` do.
    """
    find_layer(edited, layer)
    return still_active(
        lambda m: (codes_of(m, sae, layer, forget), codes_of(m, sae, layer, others)), edited, original, oracles,
        layer=layer, most=most,
    )  # fmt: skip


def still_active_drawn(
    sae: SparseAutoencoder,
    layer: str,
    forget: Sequence[str],
    others: Sequence[str],
    *,
    edited: TextToImage,
    original: TextToImage,
    oracles: Sequence[TextToImage] = (),
    noise: Tensor,
    steps: int = 20,
    stop: int = 5,
    most: int = MOST,
) -> Measurement:
    """The figure of pipelines while they draw: prompts of the erased concepts beside prompts of preserved ones.

    Args:
        sae: a dictionary of that layer of the original's denoiser; see `interpret.drawn_activations`.
        layer: name in the denoiser's `named_modules`.
        forget: prompts of erased concepts; each is a few examples, one for each noise.
        others: prompts of preserved ones.
        edited: left unchanged, as all pipelines are.
        original: see `still_active`.
        oracles: see `still_active`.
        noise: [k, c, h, w], which every prompt begins at.
        steps: of the sampler.
        stop: steps that are looked at.
        most: latents to follow.

    Raises:
        InputError: as `still_active` and `drawn_activations` do.
    """

    def codes(model: TextToImage) -> tuple[Tensor, Tensor]:
        first, second = (
            sae.encode(
                drawn_activations(model, prompts, layer, noise=noise, steps=steps, stop=stop).to(sae.W_dec)
            )
            for prompts in (forget, others)
        )
        return first.double().mean(1), second.double().mean(1)

    return still_active(codes, edited, original, oracles, layer=layer, most=most)
