"""SoftVector: put one free vector before the prompts and move it until the pipeline explains images of the concept.

What searches over tokens cannot find, a point between tokens may: the vector is what textual inversion learns, aimed at
an erased concept (Pham, Marshall, Cohen, Mittal, Hegde, "Circumventing Concept Erasure Methods For Text-to-Image
Generative Models", ICLR 2024, arXiv 2308.01508, who learn a word of their own). With z the latents of images that show
the concept, c a prompt that names it and v the vector in the place of k tokens after the prompt's beginning:

    minimise over v   E |eps(x_t, t, v + c) - truth|^2,   x_t = sqrt(a_t) z + sqrt(1 - a_t) e,   t uniform

A vector for each concept, from the mean of the vocabulary's embeddings, by Adam; then every prompt of the concept is
drawn with it. Where several text encoders read the prompt (SDXL, Stable Diffusion 3, Flux) each has a vector of its
own in that place, and all are moved together: what textual inversion learns there. A large pipeline can be taught by
such a vector what it never saw: what counts is success beyond that on a pipeline retrained without the concept, or,
without one, beyond `RandomVector`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Generator, Tensor

from ..models.text_to_image import TextToImage, training_only
from ..progress import progress
from ..random import child
from ..settings import Count, Positive, settings
from ._soft import descend
from ._train import widened
from .attacks import Attacked, Insertion, Names, Targets


@settings
class SoftVector:
    """Find a vector before the prompts, by gradient, with which an erased pipeline explains images of the concept.

    Attributes:
        tokens: vectors put before the prompt (k).
        steps: of Adam, for each concept.
        lr: of Adam.
        batch_size: images a step.
        at_once: how many of them pass through the pipeline at once, and prompts drawn at once: fewer take less memory.
    """

    tokens: Count = 1
    steps: Count = 80
    lr: Positive = 0.05
    batch_size: Count = 8
    at_once: Count = 8

    def attack(self, model: TextToImage, targets: Targets, judge: Names, *, rng: Generator) -> Attacked:
        """Attack every target; one vector serves all targets of a concept.

        Raises:
            InputError: if a prompt leaves no room for the vectors, or the targets are not of the pipeline's size.
        """
        model = widened(model)
        latents = model.latents(targets.images)
        there = _insertion(self, "SoftVector", model, targets, judge)

        def search(rows: Tensor, ids: Tensor, rng: Generator) -> Tensor:
            start = torch.cat([known.mean(0) for known in there.known]).expand(1, self.tokens, -1)

            def errors(vectors: Tensor) -> Iterator[Tensor]:
                at = rows[torch.randint(len(rows), (self.batch_size,), generator=rng)]
                t = torch.randint(model.timesteps, (len(at),), generator=rng).to(model.device)
                noise = model.noise(len(at), rng)
                for low in range(0, len(at), self.at_once):
                    part = slice(low, low + self.at_once)
                    own, n = at[part], len(at[part])
                    clean = latents[own.to(latents.device)]
                    text = there.encode(own.tolist(), ids.expand(n, -1), vectors.expand(n, -1, -1))
                    found = model(model.add_noise(clean, noise[part], t[part]), t[part], text)
                    gap = (found - model.truth(clean, noise[part], t[part])).float()
                    yield gap.square().flatten(1).mean(1).sum() / len(at)

            return descend(start, errors, steps=self.steps, lr=self.lr)

        with training_only(model, []):
            return _attacked(there, targets, search, rng=rng, label="soft vector")


@settings
class RandomVector:
    """As `SoftVector`, with vectors that were not searched for: its control.

    Drawn from a normal distribution of the vocabulary's mean and standard deviation, a dimension at a time.

    Attributes:
        tokens: vectors put before the prompt.
        at_once: prompts drawn at once.
    """

    tokens: Count = 1
    at_once: Count = 8

    def attack(self, model: TextToImage, targets: Targets, judge: Names, *, rng: Generator) -> Attacked:
        """Draw every target with one random vector for each concept; raises as `SoftVector.attack` does."""
        model = widened(model)
        there = _insertion(self, "RandomVector", model, targets, judge)

        def search(rows: Tensor, ids: Tensor, rng: Generator) -> Tensor:
            mean, std = (torch.cat([f(known.float()) for known in there.known]) for f in (_mean, _std))
            drawn = torch.randn(1, self.tokens, len(mean), generator=rng).to(mean.device)
            return (mean + std * drawn).to(there.table.dtype)

        return _attacked(there, targets, search, rng=rng, label="random vector")


def _insertion(
    by: SoftVector | RandomVector, who: str, model: TextToImage, targets: Targets, judge: Names
) -> Insertion:
    return Insertion(
        model, targets, judge, tokens=by.tokens, banned=(), batch_size=by.at_once, who=who, free=True
    )


def _mean(known: Tensor) -> Tensor:
    return known.mean(0)


def _std(known: Tensor) -> Tensor:
    return known.std(0)


def _attacked(
    there: Insertion,
    targets: Targets,
    search: Callable[[Tensor, Tensor, Generator], Tensor],
    *,
    rng: Generator,
    label: str,
) -> Attacked:
    """Find vectors for each concept, and draw its prompts with them; those that draw it by themselves are left alone.

    Args:
        there: the prompts.
        targets: prompts and images.
        search: rows of a concept, int64 [n], ids that stand under the vectors, [1, k], and a generator -> vectors
            [1, k, width].
        rng: draws one generator for each concept, in their order.
        label: shown beside the progress bar.
    """
    before = there.alone()
    success = list(before)
    concepts = list(dict.fromkeys(targets.concepts))
    ids = there.allowed[:1].expand(1, there.tokens)
    with progress(label, len(concepts)) as bar:
        for concept in concepts:
            own, rows = child(rng), [i for i, c in enumerate(targets.concepts) if c == concept]
            left = [i for i in rows if not before[i]]
            if left:
                vectors = search(torch.tensor(rows), ids, own).expand(len(left), -1, -1)
                for i, hit in zip(
                    left, there.shows(left, ids.expand(len(left), -1), vectors=vectors), strict=True
                ):
                    success[i] = hit
            bar.advance()
    attempts = (
        there.attempt(i, before=b, success=s, ids=(), judged=int(not b))
        for i, (b, s) in enumerate(zip(before, success, strict=True))
    )
    return Attacked(attempts=tuple(attempts))
