"""What pipelines draw: the same prompts from the same noise, named by a judge."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from ...erase import Concepts, TextToImage, draws_in_one_step
from ...progress import progress
from ...random import seeded


class Judge(Protocol):
    """Names what images show."""

    def names(self, images: Tensor) -> list[str]:
        """Concept of each image [n, channels, height, width] (about -1 to 1); "" where it sees none that it knows."""
        ...

    def features(self, images: Tensor) -> Tensor:
        """What it reads them by, [n, width], for distances between sets of images."""
        ...


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """One pipeline's images.

    Attributes:
        images: concept -> images [n, channels, height, width].
        named: concept -> what the judge called each.
    """

    images: Mapping[str, Tensor]
    named: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def hits(self, concepts: Sequence[str]) -> tuple[int, int]:
        """Images of these concepts that the judge named rightly, and how many there are."""
        named = [(c, said) for c in concepts for said in self.named.get(c, ())]
        return sum(c == said for c, said in named), len(named)

    def rate(self, concepts: Sequence[str]) -> float:
        """The same in %; NaN without images."""
        hits, n = self.hits(concepts)
        return 100 * hits / n if n else math.nan


def draw(
    model: TextToImage,
    concepts: Concepts,
    judge: Judge | None,
    *,
    each: int,
    seed: int,
    steps: int,
    guidance: float,
    label: str = "",
) -> Drawn:
    """Draw `each` images of every template with every concept, from noise that depends on `seed` alone.

    A generator of one step draws in one, without guidance, whatever is asked for.

    Args:
        model: pipeline.
        concepts: what is asked for: those erased and those preserved.
        judge: names the images, if there is one.
        each: images a prompt.
        seed: of the noise.
        steps: of the sampler.
        guidance: scale of classifier-free guidance.
        label: shown beside the progress bar.
    """
    asked = (*concepts.erase, *concepts.preserve)
    if draws_in_one_step(model):
        steps, guidance = 1, 1.0
    images, named = {}, {}
    with progress(label, len(asked)) as bar:
        for i, concept in enumerate(asked):
            prompts = [p for p in concepts.prompts(concept) for _ in range(each)]
            images[concept] = model.sample(
                prompts, steps=steps, guidance=guidance, rng=seeded(1000 * seed + i)
            ).cpu()
            if judge is not None:
                named[concept] = judge.names(images[concept])
            bar.advance()
    return Drawn(images=images, named=named)


def changed_share(edited: TextToImage, original: TextToImage) -> float:
    """Share of all weights that differ, in [0, 1]."""
    before = dict(original.named_parameters())
    total = changed = 0
    for name, weight in edited.named_parameters():
        total += weight.numel()
        if weight is not before[name]:
            changed += int((weight != before[name]).sum())
    return changed / total


def in_turn(
    edit: Callable[[TextToImage, Concepts], TextToImage], model: TextToImage, concepts: Concepts
) -> list[tuple[str, TextToImage]]:
    """Erase one concept after the other, each from what the last erasure left.

    Returns:
        (concept, pipeline after it was erased), in order.
    """
    done = []
    for concept in concepts.erase:
        model = edit(model, concepts.only(concept))
        done.append((concept, model))
    return done
