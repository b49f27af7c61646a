"""What to erase, what to keep, and in which words to ask for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ..errors import InputError
from ..models.text_to_image import TextToImage
from .templates import BASES, TEMPLATES


@dataclass(frozen=True, kw_only=True)
class Concepts:
    """A validated request to erase concepts.

    Attributes:
        erase: concepts to forget, as a prompt names them.
        preserve: concepts that must survive; named for methods that can protect them.
        guide: what each erased concept is turned into: one for all, or concept -> guide. "" is no concept at all.
        templates: prompts with one {} for a concept.
        bases: the same prompts without any concept, one a template; () puts the guide in the concept's place.
        synonyms: erased word -> the erased concept that it is another name of: one label for the judge, one verdict.

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
    synonyms: Mapping[str, str] = field(default_factory=dict)

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
        for word, concept in self.synonyms.items():
            if word not in self.erase or concept not in self.erase or concept in self.synonyms:
                raise InputError(
                    f"Concepts.synonyms says that {word!r} is another name of {concept!r}: both must be erased, and "
                    "the second must be no synonym itself."
                )
        erased = {_plain(c) for c in self.erase}
        for concept in self.erase:
            if _plain(self.guide_of(concept)) in erased:
                raise InputError(
                    f"Concepts.guide turns {concept!r} into {self.guide_of(concept)!r}, which is erased too."
                )

    @classmethod
    def parse(
        cls,
        erase: str,
        preserve: str = "",
        *,
        guide: str = "",
        mapped: str = "",
        templates: Sequence[str] = TEMPLATES,
        bases: Sequence[str] = (),
    ) -> Concepts:
        """Read lists with commas: `Concepts.parse("golf ball, church", "parachute")`.

        Args:
            erase: concepts; "cat=dog" turns a cat into a dog, "golf ball|golfball" are two names of one concept.
            preserve: concepts.
            guide: one for all, or as many as there are concepts, in their order.
            mapped: guides by name, "Van Gogh=painting, church=house"; concepts that it leaves out have none. Without
                `erase` its concepts are those to erase.
            templates: see `Concepts`.
            bases: see `Concepts`.

        Raises:
            InputError: if the guides do not fit the concepts, or are given in both ways.

        Example:
            >>> asked = Concepts.parse("golf ball|golfball=ball, church=house")
            >>> asked.erase, asked.guide_of("golfball"), asked.guide_of("church"), asked.labels
            (('golf ball', 'golfball', 'church'), 'ball', 'house', ('golf ball', 'church'))
        """
        if mapped.strip():
            erase = _with_guides(erase, guide, mapped)
        items, guides = _listed(erase), _listed(guide)
        named = [item.partition("=") for item in items]
        if any(sign for _, sign, _ in named):
            if guides:
                raise InputError(
                    f"the guides are given twice: as {erase!r} and as {guide!r}. Write cat=dog, or give a list."
                )
            guides = tuple(to.strip() for _, _, to in named)
        elif len(guides) == 1:
            guides *= len(items)
        if guides and len(guides) != len(items):
            raise InputError(
                f"there are {len(items)} concepts to erase and {len(guides)} guides ({guide!r}). Give one for all, or "
                "one each in the same order, or write cat=dog, bird=fox."
            )
        words = [tuple(w.strip() for w in name.split("|")) for name, _, _ in named]
        to = {w: g for own, g in zip(words, guides, strict=True) for w in own} if guides else {}
        return cls(
            erase=tuple(w for own in words for w in own),
            preserve=_listed(preserve),
            guide=next(iter(to.values()), "") if len(set(to.values())) <= 1 else to,
            templates=tuple(templates),
            bases=tuple(bases),
            synonyms={w: own[0] for own in words for w in own[1:]},
        )

    @property
    def labels(self) -> tuple[str, ...]:
        """The erased concepts, each by one name."""
        return tuple(c for c in self.erase if c not in self.synonyms)

    def label_of(self, concept: str) -> str:
        """The name that a judge has for an erased concept, or for any other."""
        return self.synonyms.get(concept, concept)

    def words(self, label: str) -> tuple[str, ...]:
        """A concept and its other names."""
        return (label, *(w for w, concept in self.synonyms.items() if concept == label))

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
        synonyms = {w: c for w, c in self.synonyms.items() if w in concepts and c in concepts}
        return replace(self, erase=concepts, guide=guide, synonyms=synonyms)

    def require_seen(self, model: TextToImage, who: str = "Concepts") -> None:
        """Raise unless every tokenizer of the pipeline reads every concept, and every prompt is short enough.

        Raises:
            InputError: naming the concept that is empty or unknown to a tokenizer, the prompt that is too long, or a
                concept that was erased from this pipeline before and cannot be kept or led to.
        """
        gone = {_plain(c) for past in earlier(model) for c in past.erase}
        for what, named in (
            ("be preserved", self.preserve),
            ("be what others are turned into", [self.guide_of(c) for c in self.erase]),
        ):
            for concept in named:
                if _plain(concept) in gone:
                    raise InputError(
                        f"{who}: {concept!r} was erased from this pipeline before; it cannot {what}. Leave it out, or "
                        "begin with the pipeline from before that."
                    )
        for concept in (*self.erase, *self.preserve):
            for i, tokenizer in enumerate(model.tokenizers):
                ids = tokenizer(model.written(concept), add_special_tokens=False).input_ids
                unknown = tokenizer.unk_token_id
                known = [k for k in ids if k != unknown or unknown == tokenizer.eos_token_id]
                if not known:
                    raise InputError(
                        f"{who}: the pipeline's tokenizer cannot see {concept!r}: it reads no token it knows, so no "
                        "prompt could name it. Check the spelling."
                    )
                model.tokens(self.prompts(concept), i)


def earlier(model: TextToImage, data: Concepts | None = None) -> tuple[Concepts, ...]:
    """What was erased from a pipeline before, request by request, without what `data` erases again.

    Where a guide was itself erased later, or is by `data`, what led to it leads to that one's guide.

    Raises:
        InputError: if its record cannot be read.
    """
    again = set() if data is None else {_plain(c) for c in data.erase}
    requests = [_past(entry) for entry in model.erased]
    found = []
    for i, past in enumerate(requests):
        later = [*requests[i + 1 :], *([] if data is None else [data])]
        erased_later = again | {_plain(c) for other in requests[i + 1 :] for c in other.erase}
        left = tuple(c for c in past.erase if _plain(c) not in erased_later)
        if left:
            own = past.only(*left)
            found.append(replace(own, guide={c: _led(own.guide_of(c), later) for c in left}))
    return tuple(found)


def _past(entry: Mapping[str, Any]) -> Concepts:
    try:
        return Concepts(**{**entry["request"], "preserve": ()})
    except (InputError, LookupError, TypeError) as error:
        raise InputError(
            f"the record of what was erased from this pipeline cannot be read ({error}). Take its folder as it was "
            "written."
        ) from error


def _led(guide: str, later: Sequence[Concepts]) -> str:
    """Where a guide leads after later requests: to its own guide if one of them erased it."""
    for asked in later:
        gone = next((c for c in asked.erase if mentions(guide, c)), None)
        if gone is not None:
            guide = asked.guide_of(gone)
    return guide


def remember_(edited: TextToImage, data: Concepts, method: str, neighbours: Sequence[str] = ()) -> None:
    """Add a request to the record of what was erased from a pipeline, with words that the method itself kept."""
    told = asdict(data)
    guide = data.guide if isinstance(data.guide, str) else dict(data.guide)
    request = {k: list(v) if isinstance(v, tuple) else v for k, v in told.items()}
    request |= {"guide": guide, "synonyms": dict(data.synonyms)}
    entry = {"method": method, "request": request} | ({"neighbours": list(neighbours)} if neighbours else {})
    edited.erased = (*edited.erased, entry)


def mentions(phrase: str, concept: str) -> bool:
    """Whether a phrase holds a concept's words, whole and side by side, in whatever case.

    Example:
        >>> mentions("a Golf  ball on a table", "golf ball"), mentions("a golfball", "golf")
        (True, False)
    """
    return f" {_plain(concept)} " in f" {_plain(phrase)} "


def _listed(text: str) -> tuple[str, ...]:
    return tuple(c.strip() for c in text.split(",")) if text.strip() else ()


def _with_guides(erase: str, guide: str, mapped: str) -> str:
    """The list of concepts with the guides of a map written into it, as "cat=dog"."""
    pairs = [item.partition("=") for item in _listed(mapped)]
    if any(not name.strip() or not sign for name, sign, _ in pairs):
        raise InputError(f"a map has a concept and its guide, cat=dog, with commas between; got {mapped!r}.")
    if guide.strip() or "=" in erase:
        raise InputError(
            f"the guides are given twice: as {guide.strip() or erase!r} and as the map {mapped!r}. Give one of them."
        )
    guides = {_plain(name): to.strip() for name, _, to in pairs}
    if len(guides) < len(pairs):
        raise InputError(f"the map {mapped!r} names a concept more than once.")
    items = _listed(erase) or tuple(name.strip() for name, _, _ in pairs)
    known = {_plain(item.partition("|")[0]) for item in items}
    odd = [name for name in guides if name not in known]
    if odd:
        raise InputError(f"the map names {odd[0]!r}, which is not erased. Erased are {', '.join(items)}.")
    return ", ".join(f"{item}={guides.get(_plain(item.partition('|')[0]), '')}" for item in items)


def _plain(concept: str) -> str:
    return " ".join(concept.lower().split())
