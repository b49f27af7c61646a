"""What attacks on an erasure share: what they aim at, tokens put before prompts, and how success is reported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Generator, Tensor

from ..errors import InputError
from ..models.text_to_image import Guidance, Prompts, Text, TextToImage
from ..settings import Count, Whole, checked, settings
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


@settings
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
    steps: Count = 50
    guidance: Guidance = 7.5

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
    @checked
    def drawn(
        cls,
        original: TextToImage,
        concepts: Concepts,
        judge: Names,
        *,
        n: Count = 10,
        room: Whole = 0,
        tries: Count = 8,
        steps: Count = 50,
        guidance: Guidance = 7.5,
        rng: Generator,
    ) -> Targets:
        """Draw prompts of the erased concepts with the original until the judge sees the concept in each image.

        Args:
            original: pipeline before the edit.
            concepts: its erased concepts in all its templates, in turn; synonyms count as what they name.
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
        fitting = _with_room(original, concepts, room)
        pairs = [
            (prompt, concepts.label_of(word))
            for prompt, word in (fitting[i % len(fitting)] for i in range(n))
        ]
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


class Insertion:
    """Prompts with room for k tokens at their beginning.

    Attributes:
        tokens: how many (k).
        table: the encoder's token embeddings, [vocabulary, width].
        allowed: ids that may be inserted, int64, in order: text of the tokenizer's own, without banned words.
        vocabulary: rows of the embedding table.
        known: token embeddings that are text, of each encoder, [tokens, width].

    Args:
        model: under attack.
        targets: what it is to draw.
        judge: names what it draws.
        tokens: to insert.
        banned: words of which no token is inserted.
        batch_size: prompts at once.
        who: attacks; begins the errors' messages.
        free: vectors alone are inserted, never tokens, so that several text encoders may read them.
    """

    def __init__(
        self,
        model: TextToImage,
        targets: Targets,
        judge: Names,
        *,
        tokens: int,
        banned: Sequence[str],
        batch_size: int,
        who: str,
        free: bool = False,
    ) -> None:
        if not free:
            require_one_encoder(model, who)
        if tuple(targets.noise.shape[1:]) != model.shape:
            raise InputError(
                f"{who}: the targets' noise is {list(targets.noise.shape[1:])}, the pipeline's {list(model.shape)}. "
                "Draw the targets with the pipeline that this one was edited from."
            )
        self._model, self._targets, self._judge = model, targets, judge
        self._batch, self.tokens = batch_size, tokens
        self._prompts = Prompts(model, targets.prompts)
        self._prompts.require_room(tokens, who)
        self.table = self._prompts.table
        self.vocabulary, self.known = len(self.table), self._prompts.known
        self.allowed = _allowed(model, banned, who).to(self.table.device)

    def ids(self, rows: Sequence[int], inserted: Tensor) -> tuple[Tensor, Tensor]:
        """Ids and mask, [m, length], of these targets' prompts with their tokens [m, k] at the beginning."""
        return self._prompts.inserted(torch.as_tensor(list(rows)), inserted)

    def encode(self, rows: Sequence[int], inserted: Tensor, vectors: Tensor) -> Text:
        """The same encoded, with `vectors` [m, k, width] in place of the inserted tokens' embeddings; see `Prompts`."""
        return self._prompts.encode(self._model, torch.as_tensor(list(rows)), inserted, vectors)

    @torch.no_grad()
    def alone(self) -> list[bool]:
        """Whether each prompt draws its concept by itself."""
        rows = range(len(self._targets))
        return self._drawn(rows, self._model.encode(self._targets.prompts), self._targets.noise)

    @torch.no_grad()
    def shows(
        self,
        rows: Sequence[int],
        inserted: Tensor,
        noise: Tensor | None = None,
        *,
        vectors: Tensor | None = None,
    ) -> list[bool]:
        """Whether these prompts draw their concepts.

        Args:
            rows: of the m prompts.
            inserted: tokens [m, k] before them.
            noise: to begin with, in place of their own.
            vectors: [m, k, width], in place of the tokens' embeddings.
        """
        step = self._batch
        parts = [slice(i, i + step) for i in range(0, len(rows), step)]
        text = Text.cat([
            self._model.encode_tokens(self.ids(rows[part], inserted[part]))
            if vectors is None
            else self.encode(rows[part], inserted[part], vectors[part])
            for part in parts
        ])  # fmt: skip
        return self._drawn(rows, text, self._targets.noise[list(rows)] if noise is None else noise)

    def _drawn(self, rows: Sequence[int], text: Text, noise: Tensor) -> list[bool]:
        images = self._model.sample(
            text,
            steps=self._targets.steps,
            guidance=self._targets.guidance,
            noise=noise,
            batch_size=self._batch,
        )
        return seen(self._judge, images, [self._targets.concepts[i] for i in rows])

    def attempt(self, row: int, *, before: bool, success: bool, ids: Sequence[int], judged: int) -> Attempt:
        """The record of one target."""
        return Attempt(
            prompt=self._targets.prompts[row],
            concept=self._targets.concepts[row],
            before=before,
            success=success,
            ids=tuple(ids),
            text=self._text(ids),
            judged=judged,
        )

    def _text(self, ids: Sequence[int]) -> str:
        written = str(self._model.tokenizers[0].decode(list(ids))) if len(ids) else ""
        return " ".join(written.replace("</w>", " ").split())  # CLIP's mark of a word's end


def require_one_encoder(model: TextToImage, who: str) -> None:
    """Raise unless a pipeline has one text encoder, whose tokens can be searched.

    Raises:
        InputError: naming who asks.
    """
    if len(model.tokenizers) != 1:
        raise InputError(
            f"{who}: pipelines with several text encoders (SDXL, Stable Diffusion 3, Flux) cannot be attacked by "
            "tokens: one string would have to be found that all their tokenizers read. Attack with SoftVector "
            "(--attack soft-vector), which gives every encoder a vector of its own."
        )


def seen(judge: Names, images: Tensor, concepts: Sequence[str]) -> list[bool]:
    """Whether the judge sees in each image the concept beside it.

    Raises:
        InputError: if it does not give one string an image.
    """
    named = list(judge.names(images.cpu()))
    if len(named) != len(images) or not all(isinstance(name, str) for name in named):
        raise InputError(
            f"the judge must give one name (a string) an image; for {len(images)} images it gave {named[:3]}"
            f"{' ...' if len(named) > 3 else ''} ({len(named)})."
        )
    return [name == concept for name, concept in zip(named, concepts, strict=True)]


def _with_room(model: TextToImage, concepts: Concepts, room: int) -> list[tuple[str, str]]:
    """Prompts of the erased concepts, template by template, that leave room for more tokens, with their concepts."""
    columns = [concepts.prompts(c) for c in concepts.erase]
    asked = [pair for row in zip(*columns, strict=True) for pair in zip(row, concepts.erase, strict=True)]
    lengths = [model.length(i) for i in range(len(model.tokenizers))]

    def fits(prompt: str) -> bool:  # of a longer prompt too, all tokens are counted
        ids = (t(model.written(prompt), verbose=False).input_ids for t in model.tokenizers)
        return all(len(own) + room <= length for own, length in zip(ids, lengths, strict=True))

    fitting = [(prompt, concept) for prompt, concept in asked if fits(prompt)]
    if not fitting:
        raise InputError(
            f"Targets: no prompt leaves room for {room} more tokens; the text encoder reads {min(lengths)}. Shorten "
            "the templates or insert fewer tokens."
        )
    return fitting


def _allowed(model: TextToImage, banned: Sequence[str], who: str) -> Tensor:
    tokenizer = model.tokenizers[0]
    rows = len(model.text_encoder.get_input_embeddings().weight)  # type: ignore[operator]
    kept = torch.ones(rows, dtype=torch.bool)
    kept[len(tokenizer) :] = False
    kept[[i for i in tokenizer.all_special_ids if i < rows]] = False
    if banned:
        written = [str(t).lower() for t in tokenizer.convert_ids_to_tokens(range(min(rows, len(tokenizer))))]
        for word in banned:
            plain = "".join(word.lower().split())
            if not plain:
                raise InputError(f"{who}.banned holds an empty word: {tuple(banned)}.")
            kept[tokenizer(word, add_special_tokens=False).input_ids] = False
            kept[[i for i, token in enumerate(written) if plain in token]] = False
    if not kept.any():
        raise InputError(f"{who}: no token is left to insert. Ban fewer words.")
    return kept.nonzero().flatten()
