"""What a latent speaks of: the examples on which it is strongest, found in one pass in bounded memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from ..errors import InputError
from ..tasks import Padded
from ..types import Batch, Data
from .activations import read_layer
from .autoencoder import SparseAutoencoder


@dataclass(frozen=True, kw_only=True)
class Latents:
    """The strongest examples of each latent.

    Attributes:
        which: the latents, the most active first, [m].
        values: largest code of each on its examples, descending, [m, top]; 0 where there are no more.
        examples: position of the example in the data, [m, top]; -1 where there is none.
        places: position within the example: a token's, or a place of the map counted row by row, [m, top].
        density: share of vectors on which each is active, [m].
    """

    which: Tensor
    values: Tensor
    examples: Tensor
    places: Tensor
    density: Tensor


def top_examples(
    sae: SparseAutoencoder,
    model: Module,
    data: Data[Any],
    layer: str,
    *,
    latents: Tensor | None = None,
    most: int = 10,
    top: int = 5,
) -> Latents:
    """For each latent, the examples with its largest codes, one entry an example.

    Args:
        sae: of that layer.
        model: left unchanged.
        data: read in order.
        layer: name in `named_modules`.
        latents: which, int64; the `most` that are active most often, but on less than half of the vectors, unless
            given.
        most: how many latents to choose.
        top: examples of each.

    Raises:
        EmptyDataError: if `data` is empty.
        InputError: if a latent is none of the dictionary's, or the width is not the layer's.
    """
    data.require_examples("top_examples")
    if latents is not None and (
        len(latents) == 0 or int(latents.min()) < 0 or int(latents.max()) >= sae.latents
    ):
        raise InputError(f"latents must be from 0 to {sae.latents - 1}; got {latents.tolist()[:5]}.")
    n = sae.latents
    values = torch.zeros(n, top)
    examples, places = torch.full((n, top), -1), torch.zeros(n, top, dtype=torch.long)
    active, vectors, seen = torch.zeros(n, dtype=torch.float64), 0, 0
    for batch in data.batches():
        codes, here = _codes(sae, model, batch, data.task, layer)
        vectors += here
        active += (codes > 0).double().sum((0, 1)).cpu()
        best, place = (t.cpu() for t in codes.max(1))  # [b, n]
        at = torch.arange(seen, seen + len(best))
        seen += len(best)
        pool = torch.cat([values, best.T.float()], 1)
        values, chosen = pool.topk(top, dim=1)
        examples = torch.cat([examples, at.expand(n, -1)], 1).gather(1, chosen)
        places = torch.cat([places, place.T], 1).gather(1, chosen)
    examples[values == 0] = -1
    density = active / vectors
    if latents is None:
        common = torch.where(density < 0.5, density, torch.zeros_like(density))
        latents = common.topk(min(most, n)).indices
    return Latents(
        which=latents,
        values=values[latents],
        examples=examples[latents],
        places=places[latents],
        density=density[latents],
    )


def _codes(sae: SparseAutoencoder, model: Module, batch: Batch, task: Any, layer: str) -> tuple[Tensor, int]:
    """Codes at each place of a batch, 0 at padding, [b, places, n], and how many places are not."""
    x = read_layer(model, batch, task, layer)
    with torch.no_grad():
        codes = sae.encode(x)
    codes = codes.flatten(1, -2) if codes.ndim > 2 else codes[:, None]
    if not isinstance(task, Padded):
        return codes, codes.shape[0] * codes.shape[1]
    present = task.present(batch).to(codes.device)
    return codes * present[..., None], int(present.sum())
