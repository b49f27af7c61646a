"""What attacks on an erasure share: what they aim at, and how their success is reported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Generator, Tensor

from ..errors import InputError
from ..models.text_to_image import TextToImage
from ..statistics import wilson
from ..types import Measurement
from .concepts import Concepts


class Names(Protocol):
    """A judge, as far as an attack needs it."""

    def names(self, images: Tensor) -> list[str]:
        """Concept of each image [n, channels, height, width] (about -1 to 1); "" where it sees none that it knows."""
        ...


class Attack(Protocol):
    """Something that tries to make a pipeline draw what was erased from it."""

    def attack(self, model: TextToImage, targets: Targets, judge: Names, *, rng: Generator) -> Attacked:
        """Attack every target; the pipeline is left unchanged."""
        ...


@dataclass(frozen=True, kw_only=True)
class Targets:
    """Prompts that name erased concepts, with images that show them, drawn by the original pipeline.

    Attributes:
        prompts: n of them.
        concepts: which concept each prompt names.
        images: what the original drew, about -1 to 1, [n, channels, height, width].
        noise: what it drew them from and attacked pipelines start from, [n, c, h, w].
        steps: of the sampler.
        guidance: scale of classifier-free guidance.
    """

    prompts: tuple[str, ...]
    concepts: tuple[str, ...]
    images: Tensor
    noise: Tensor
    steps: int = 50
    guidance: float = 7.5

    def __post_init__(self) -> None:
        sizes = [len(self.prompts), len(self.concepts), len(self.images), len(self.noise)]
        if len(set(sizes)) > 1 or not self.prompts:
            raise InputError(
                "Targets needs at least one prompt, and a concept, an image and a noise for each; got "
                "{} prompts, {} concepts, {} images and {} noises.".format(*sizes)
            )
        if self.images.ndim != 4 or self.noise.ndim != 4:
            raise InputError(
                "Targets.images and Targets.noise must be [n, channels, height, width]; got "
                f"{list(self.images.shape)} and {list(self.noise.shape)}."
            )

    def __len__(self) -> int:
        return len(self.prompts)

    @classmethod
    def drawn(
        cls,
        original: TextToImage,
        concepts: Concepts,
        judge: Names,
        *,
        n: int = 10,
        room: int = 0,
        tries: int = 8,
        steps: int = 50,
        guidance: float = 7.5,
        rng: Generator,
    ) -> Targets:
        """Draw prompts of the erased concepts with the original until the judge sees the concept in each image.

        Args:
            original: pipeline before the edit.
            concepts: its erased concepts in all its templates, in turn.
            judge: names the images.
            n: prompts wanted. Those whose concept is never seen in `tries` images are left out.
            room: tokens that must still fit into a prompt; longer prompts are left out.
            tries: noises tried for each prompt.
            steps: of the sampler.
            guidance: scale of classifier-free guidance.
            rng: draws the noises.

        Raises:
            InputError: if no prompt leaves the room, or the judge sees the concept in no image.
        """
        if n < 1 or tries < 1:
            raise InputError(f"Targets.drawn: n and tries must be at least 1; got {n} and {tries}.")
        asked = [
            (p, c)
            for i in range(len(concepts.templates))
            for c in concepts.erase
            for p in [concepts.prompts(c)[i]]
        ]
        fitting = [pair for pair in asked if length_of(original, pair[0]) + room <= original.length()]
        if not fitting:
            raise InputError(
                f"Targets: no prompt leaves room for {room} more tokens; the text encoder reads "
                f"{original.length()}. Shorten the templates or insert fewer tokens."
            )
        pairs = [fitting[i % len(fitting)] for i in range(n)]
        found: dict[int, tuple[Tensor, Tensor]] = {}
        for _ in range(tries):
            left = [i for i in range(n) if i not in found]
            noise = original.noise(len(left), rng)
            images = original.sample([pairs[i][0] for i in left], steps=steps, guidance=guidance, noise=noise)
            shows = seen(judge, images, [pairs[i][1] for i in left])
            found |= {i: (images[k], noise[k]) for k, i in enumerate(left) if shows[k]}
            if len(found) == n:
                break
        if not found:
            raise InputError(
                f"Targets: the judge sees {' or '.join(concepts.erase)} in none of the original's images, so there is "
                "nothing to aim at. Check the judge's names and the prompts."
            )
        order = sorted(found)
        return cls(
            prompts=tuple(pairs[i][0] for i in order),
            concepts=tuple(pairs[i][1] for i in order),
            images=torch.stack([found[i][0] for i in order]),
            noise=torch.stack([found[i][1] for i in order]),
            steps=steps,
            guidance=guidance,
        )


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """How the attack on one prompt went.

    Attributes:
        prompt: attacked.
        concept: that it names.
        before: whether the prompt alone, from the target's noise, draws the concept: then it is not attacked.
        success: whether the prompt alone or one of the candidates draws it.
        ids: tokens of the last candidate, inserted before the prompt; () if there were none.
        text: the same as text. Tokenised again it may give other tokens: the ids are what was judged.
        judged: candidates drawn and judged.
    """

    prompt: str
    concept: str
    before: bool
    success: bool
    ids: tuple[int, ...] = ()
    text: str = ""
    judged: int = 0


@dataclass(frozen=True, kw_only=True)
class Attacked:
    """How an attack on all targets went.

    Attributes:
        attempts: one a target, in their order.
    """

    attempts: tuple[Attempt, ...]

    @property
    def pre_asr(self) -> float:
        """Per cent of the prompts that draw the concept by themselves."""
        return 100 * sum(a.before for a in self.attempts) / len(self.attempts)

    @property
    def asr(self) -> float:
        """Attack success rate: per cent of the prompts that draw it by themselves or under attack."""
        return 100 * sum(a.success for a in self.attempts) / len(self.attempts)

    @property
    def judged(self) -> int:
        """Candidates drawn and judged, over all prompts."""
        return sum(a.judged for a in self.attempts)

    def measurement(
        self,
        name: str,
        *,
        original: Attacked | None = None,
        oracles: Sequence[Attacked] = (),
        before: bool = False,
    ) -> Measurement:
        """The success rate with Wilson's interval, beside those of other pipelines under the same attack.

        Args:
            name: of the figure.
            original: the pipeline before the edit. Its prompts were chosen so that it draws the concept.
            oracles: pipelines retrained without the concept: what they yield is the judge's error.
            before: of the prompts by themselves, without the attack.
        """

        def rate(of: Attacked) -> float:
            return of.pre_asr if before else of.asr

        n, rates = len(self.attempts), [rate(o) for o in oracles]
        low, high = wilson(sum(a.before if before else a.success for a in self.attempts), n)
        note = "" if before else f"{self.judged} candidates judged; {self.pre_asr:.0f} % without the attack"
        return Measurement(
            name=name,
            value=rate(self),
            unit="%",
            direction="near the retrained; lower is more forgotten",
            n=n,
            interval=(100 * low, 100 * high),
            original=None if original is None else rate(original),
            oracle_mean=sum(rates) / len(rates) if rates else None,
            oracle_spread=float(torch.tensor(rates).std()) if len(rates) > 1 else None,
            note=note,
        )


def seen(judge: Names, images: Tensor, concepts: Sequence[str]) -> list[bool]:
    """Whether the judge sees in each image the concept beside it.

    Raises:
        InputError: if it does not give one string an image.
    """
    named = list(judge.names(images))
    if len(named) != len(images) or not all(isinstance(name, str) for name in named):
        raise InputError(
            f"the judge must give one name (a string) an image; for {len(images)} images it gave {named[:3]}"
            f"{' ...' if len(named) > 3 else ''} ({len(named)})."
        )
    return [name == concept for name, concept in zip(named, concepts, strict=True)]


def length_of(model: TextToImage, prompt: str) -> int:
    """Tokens of a prompt, beginning and end included, however many the text encoder reads."""
    return len(model.tokenizers[0](prompt, verbose=False).input_ids)
