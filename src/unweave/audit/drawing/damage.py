"""What an erasure must leave alone although nobody named it: neighbours of the concepts, and prompts without them."""

from __future__ import annotations

import torch
from torch import Tensor

from ...erase import Concepts, TextToImage, ranked, reads
from ...errors import InputError
from .compared import Strayed
from .drawn import Drawn, Judge

GENERAL = (
    "a portrait of a woman",
    "a mountain landscape",
    "a city street at night",
    "a bowl of fruit",
    "a house by a lake",
    "an abstract painting",
)
"""Prompts of everyday things, drawn beside the templates without a concept."""
NEAREST = 3
"""Neighbours looked at for each erased concept."""
MOST = 12
"""Neighbours looked at in all."""
NEAR = 0.95
"""Share of the original's own other images that count as near."""


def plain_prompts(model: TextToImage, concepts: Concepts) -> tuple[str, ...]:
    """Prompts without any erased concept: the templates' bases, and what the tokenizers read of `GENERAL`."""
    bases = (p for concept in concepts.erase for p in concepts.base_prompts(concept))
    general = (p for p in GENERAL if reads(model, p) and not any(_within(c, p) for c in concepts.erase))
    return tuple(dict.fromkeys(p for p in (*bases, *general) if p.strip()))


def neighbours(model: TextToImage, concepts: Concepts, judge: Judge | None) -> tuple[str, ...]:
    """The concepts that the judge knows and nobody named, nearest to the erased ones as the text encoder sees them.

    Returns:
        At most `NEAREST` for each erased concept and `MOST` in all; () for a judge without `labels`.
    """
    asked = {_plain(w) for w in (*concepts.erase, *concepts.preserve)}
    labels = [w for w in dict.fromkeys(getattr(judge, "labels", ())) if _plain(w) not in asked]
    known = [w for w in labels if reads(model, concepts.prompts(w)[0])]
    if not known:
        return ()
    found: dict[str, None] = {}
    order = ranked(model, concepts, known)
    for rank in range(min(NEAREST, len(known))):  # the nearest of each first, should there be too many
        found |= dict.fromkeys(near[rank] for near in order)
    return tuple(found)[:MOST]


def strayed(judge: Judge, edited: Drawn, original: Drawn) -> Strayed | None:
    """How far the edited pipeline's images of prompts without a concept lie from the original's.

    Both directions of Kynkäänniemi et al., "Improved precision and recall metric for assessing generative models",
    NeurIPS 2019, arXiv 1904.06991, with one threshold a direction in place of one an image: the distance that `NEAR`
    of the original's own images keep from those that it drew of the same prompts from other noise.
    """
    if edited.plain is None or original.plain is None or original.again is None:
        return None
    made, first, other = (
        _features(judge, images) for images in (edited.plain, original.plain, original.again)
    )
    outside = _nearest(made, other) > _nearest(first, other).quantile(NEAR)
    missing = _nearest(other, made) > _nearest(other, first).quantile(NEAR)
    return Strayed(outside=(int(outside.sum()), len(made)), missing=(int(missing.sum()), len(other)))


def _features(judge: Judge, images: Tensor) -> Tensor:
    found = judge.features(images).detach().cpu().double().flatten(1)
    if len(found) != len(images):
        raise InputError(
            f"the judge's features must be [n, width]; for {len(images)} images it gave {len(found)} rows."
        )
    return found


def _nearest(of: Tensor, among: Tensor) -> Tensor:
    """Distance of each to the nearest of others; infinite where something is not finite."""
    distances = torch.cdist(of, among, compute_mode="donot_use_mm_for_euclid_dist")
    return distances.nan_to_num(nan=torch.inf, posinf=torch.inf).min(1).values


def _within(concept: str, prompt: str) -> bool:
    return f" {_plain(concept)} " in f" {_plain(prompt)} "


def _plain(text: str) -> str:
    return " ".join(text.lower().split())
