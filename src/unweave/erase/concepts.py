"""What to erase, what to keep, and in which words to ask for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ..errors import InputError
from ..models.text_to_image import TextToImage

TEMPLATES = (
    "a photo of a {}",
    "an image of a {}",
    "a {} in the park",
    "a {} near a road",
    "a {} on a table",
    "a {} at sunset",
)
BASES = ("a photo", "an image", "a park", "a road", "a table", "a sunset")
"""The default templates without a concept."""


@dataclass(frozen=True, kw_only=True)
class Concepts:
    """A validated request to erase concepts.

    Attributes:
        erase: concepts to forget, as a prompt names them.
        preserve: concepts that must survive; named for methods that can protect them.
        guide: what each erased concept is turned into: one for all, or concept -> guide. "" is no concept at all.
        templates: prompts with one {} for a concept.
        bases: the same prompts without any concept, one a template; () puts the guide in the concept's place.

    Example:
        >>> asked = Concepts(erase=("cat",), templates=("a {} in the park",), bases=("a park",))
        >>> asked.prompts("cat"), asked.base_prompts("cat")
        (['a cat in the park'], ['a park'])
    """

    erase: tuple[str, ...]
    preserve: tuple[str, ...] = ()
    guide: str | Mapping[str, str] = ""
    templates: tuple[str, ...] = TEMPLATES
    bases: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        for name in ("erase", "preserve", "templates", "bases"):
            given = getattr(self, name)
            if isinstance(given, str) or not all(isinstance(text, str) for text in given):
                raise InputError(
                    f"Concepts.{name} must be a tuple of strings; got {given!r}. Concepts.parse splits at commas."
                )
            object.__setattr__(self, name, tuple(given))
        if not self.erase:
            raise InputError("Concepts.erase is empty. Name at least one concept to erase.")
        for name in ("erase", "preserve"):
            concepts = getattr(self, name)
            if any(not c.strip() for c in concepts):
                raise InputError(f"Concepts.{name} holds an empty concept: {concepts}.")
            plain = [_plain(c) for c in concepts]
            twice = sorted({c for c in plain if plain.count(c) > 1})
            if twice:
                raise InputError(f"Concepts.{name} names {', '.join(map(repr, twice))} more than once.")
        both = sorted({_plain(c) for c in self.erase} & {_plain(c) for c in self.preserve})
        if both:
            raise InputError(
                f"{', '.join(map(repr, both))} cannot be both erased and preserved. Name each in one list only."
            )
        if not self.templates or any(t.count("{}") != 1 for t in self.templates):
            raise InputError(
                f"Concepts.templates must be prompts with exactly one {{}} each; got {self.templates}."
            )
        if self.templates == TEMPLATES and not self.bases:
            object.__setattr__(self, "bases", BASES)
        if self.bases and len(self.bases) != len(self.templates):
            raise InputError(
                f"Concepts.bases must have one prompt a template ({len(self.templates)}); got {len(self.bases)}."
            )
        if not isinstance(self.guide, str):
            unknown = sorted({_plain(c) for c in self.guide} - {_plain(c) for c in self.erase})
            if unknown:
                raise InputError(
                    f"Concepts.guide names {', '.join(map(repr, unknown))}, which are not erased."
                )
        erased = {_plain(c) for c in self.erase}
        for concept in self.erase:
            if _plain(self.guide_of(concept)) in erased:
                raise InputError(
                    f"Concepts.guide turns {concept!r} into {self.guide_of(concept)!r}, which is erased too."
                )

    @classmethod
    def parse(
        cls, erase: str, preserve: str = "", *, guide: str = "", templates: Sequence[str] = TEMPLATES
    ) -> Concepts:
        """Read lists with commas: `Concepts.parse("golf ball, church", "parachute")`."""
        lists = [tuple(c.strip() for c in t.split(",")) if t.strip() else () for t in (erase, preserve)]
        return cls(erase=lists[0], preserve=lists[1], guide=guide, templates=tuple(templates))

    def guide_of(self, concept: str) -> str:
        """What an erased concept is turned into."""
        if isinstance(self.guide, str):
            return self.guide
        return {_plain(k): v for k, v in self.guide.items()}.get(_plain(concept), "")

    def prompts(self, *concepts: str) -> list[str]:
        """Every template with the first concept, then with the next."""
        return [t.replace("{}", concept) for concept in concepts for t in self.templates]

    def guide_prompts(self, *concepts: str) -> list[str]:
        """The prompts of `prompts` with each concept's guide in its place."""
        return [
            " ".join(t.replace("{}", self.guide_of(concept)).split())
            for concept in concepts
            for t in self.templates
        ]

    def base_prompts(self, concept: str) -> list[str]:
        """The prompts of `prompts(concept)` without the concept."""
        return list(self.bases) or self.guide_prompts(concept)

    def only(self, *concepts: str) -> Concepts:
        """The same request for some of the erased concepts; the others are neither erased nor preserved."""
        guide = self.guide
        if not isinstance(guide, str):
            wanted = {_plain(c) for c in concepts}
            guide = {k: v for k, v in guide.items() if _plain(k) in wanted}
        return replace(self, erase=concepts, guide=guide)

    def require_seen(self, model: TextToImage, who: str = "Concepts") -> None:
        """Raise unless every tokenizer of the pipeline reads every concept, and every prompt is short enough.

        Raises:
            InputError: naming the concept that is empty or unknown to a tokenizer, or the prompt that is too long.
        """
        for concept in (*self.erase, *self.preserve):
            for i, tokenizer in enumerate(model.tokenizers):
                ids = tokenizer(concept, add_special_tokens=False).input_ids
                unknown = tokenizer.unk_token_id
                known = [k for k in ids if k != unknown or unknown == tokenizer.eos_token_id]
                if not known:
                    raise InputError(
                        f"{who}: the pipeline's tokenizer cannot see {concept!r}: it reads no token it knows, so no "
                        "prompt could name it. Check the spelling."
                    )
                model.tokens(self.prompts(concept), i)


def mentions(phrase: str, concept: str) -> bool:
    """Whether a phrase holds a concept's words, whole and side by side, in whatever case.

    Example:
        >>> mentions("a Golf  ball on a table", "golf ball"), mentions("a golfball", "golf")
        (True, False)
    """
    return f" {_plain(concept)} " in f" {_plain(phrase)} "


def _plain(concept: str) -> str:
    return " ".join(concept.lower().split())
