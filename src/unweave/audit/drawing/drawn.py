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

Hits = tuple[int, int]
"""Images that show what they were asked for, and how many there are."""


class Judge(Protocol):
    """Names what images show. One that has `labels` (a sequence of names) says which concepts it knows."""

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
        plain: images of prompts without any concept, [n, channels, height, width]; None if there are none.
        again: the same prompts drawn once more from other noise.
    """

    images: Mapping[str, Tensor]
    named: Mapping[str, Sequence[str]] = field(default_factory=dict)
    plain: Tensor | None = None
    again: Tensor | None = None

    def hits(self, concepts: Sequence[str]) -> Hits:
        """Images of these concepts that the judge named rightly, and how many there are."""
        named = [(c, said) for c in concepts for said in self.named.get(c, ())]
        return sum(c == said for c, said in named), len(named)

    def rate(self, concepts: Sequence[str]) -> float:
        """The same in %; NaN without images."""
        hits, n = self.hits(concepts)
        return 100 * hits / n if n else math.nan


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What every pipeline is asked to draw.

    Attributes:
        concepts: erased and preserved, in their templates.
        neighbours: further concepts that must survive, though nobody named them.
        earlier: concepts that were erased before.
        plain: prompts without any concept.
    """

    concepts: Concepts
    neighbours: tuple[str, ...] = ()
    earlier: tuple[str, ...] = ()
    plain: tuple[str, ...] = ()

    @property
    def named(self) -> tuple[str, ...]:
        """All concepts, in the order in which they are drawn; synonyms under the concept that they name."""
        return (*self.concepts.labels, *self.concepts.preserve, *self.neighbours, *self.earlier)


def draw(
    model: TextToImage,
    asked: Asked | Concepts,
    judge: Judge | None,
    *,
    each: int,
    seed: int,
    steps: int,
    guidance: float,
    twice: bool = False,
    at_once: int = 16,
    label: str = "",
) -> Drawn:
    """Draw `each` images of every prompt with every concept, and of those without, from noise that depends on `seed`.

    A generator of one step draws in one, without guidance, whatever is asked for.

    Args:
        model: pipeline.
        asked: what is asked for; of `Concepts` alone, those erased and those preserved.
        judge: names the images, if there is one.
        each: images a prompt.
        seed: of the noise.
        steps: of the sampler.
        guidance: scale of classifier-free guidance.
        twice: draw the prompts without a concept from other noise, too.
        at_once: images drawn at once, which takes as much memory.
        label: shown beside the progress bar.
    """
    asked = Asked(concepts=asked) if isinstance(asked, Concepts) else asked
    if draws_in_one_step(model):
        steps, guidance = 1, 1.0

    def drawn(prompts: Sequence[str], noise: int) -> Tensor:
        images = model.sample(
            [p for p in prompts for _ in range(each)],
            steps=steps, guidance=guidance, rng=seeded(1000 * seed + noise), batch_size=at_once,
        )  # fmt: skip
        return images.cpu()

    images, named = {}, {}
    with progress(label, len(asked.named) + bool(asked.plain) * (1 + twice)) as bar:
        for i, concept in enumerate(asked.named):
            images[concept] = drawn(asked.concepts.prompts(*asked.concepts.words(concept)), i)
            if judge is not None:
                named[concept] = judge.names(images[concept])
            bar.advance()
        halves: list[Tensor] = []
        for noise in (998, 999)[: bool(asked.plain) * (1 + twice)]:
            halves.append(drawn(asked.plain, noise))
            bar.advance()
    plain, again = (*halves, None, None)[:2]
    return Drawn(images=images, named=named, plain=plain, again=again)


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
    for concept in concepts.labels:
        model = edit(model, concepts.only(*concepts.words(concept)))
        done.append((concept, model))
    return done
