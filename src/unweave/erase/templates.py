"""In which prompts a concept is asked for: by its kind, from a file of templates, or in prompts of one's own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ..errors import InputError

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
STYLE_TEMPLATES = (
    "a painting in the style of {}",
    "a portrait in the style of {}",
    "a landscape in the style of {}",
    "a house in the style of {}",
    "a bowl of fruit in the style of {}",
    "a drawing by {}",
)
STYLE_BASES = ("a painting", "a portrait", "a landscape", "a house", "a bowl of fruit", "a drawing")
ATTRIBUTE_TEMPLATES = (
    "a photo of {}",
    "an image of {}",
    "a painting of {}",
    "a scene with {}",
    "a person, {}",
    "a film still, {}",
)
ATTRIBUTE_BASES = ("a photo", "an image", "a painting", "a scene", "a person", "a film still")
PERSON_TEMPLATES = (
    "a photo of {}",
    "a portrait of {}",
    "a painting of {}",
    "{} giving a speech",
    "{} walking a dog",
    "{} at a table",
)
PERSON_BASES = (
    "a photo of a person",
    "a portrait of a person",
    "a painting of a person",
    "a person giving a speech",
    "a person walking a dog",
    "a person at a table",
)
EXPLICIT_TEMPLATES = (
    "a photo of a person, {}",
    "a photo of a woman, {}",
    "a photo of a man, {}",
    "a painting of a person, {}",
    "a film still, {}",
    "an image with {}",
)
EXPLICIT_BASES = (
    "a photo of a person, dressed",
    "a photo of a woman, dressed",
    "a photo of a man, dressed",
    "a painting of a person, dressed",
    "a film still",
    "an image",
)
KINDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "object": (TEMPLATES, BASES),
    "style": (STYLE_TEMPLATES, STYLE_BASES),
    "attribute": (ATTRIBUTE_TEMPLATES, ATTRIBUTE_BASES),
    "person": (PERSON_TEMPLATES, PERSON_BASES),
    "explicit": (EXPLICIT_TEMPLATES, EXPLICIT_BASES),
}
"""What is erased, in a word -> templates, and the same without a concept."""


def templates_of(named: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Templates and the same prompts without a concept, by a word of `KINDS` or from a file.

    Args:
        named: "object", "style", "attribute", "person", "explicit", or a text file with a template a line, and its
            prompt without the concept after a tab, on every line or on none. Empty lines are passed over.

    Raises:
        InputError: if it is neither, or a line lacks what the others have.
    """
    if named in KINDS:
        return KINDS[named]
    path = Path(named)
    if not path.is_file():
        raise InputError(
            f"--templates must be {', '.join(KINDS)} or a file of prompts; there is no file {named}."
        )
    lines = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if len({len(line) for line in lines}) > 1 or any(len(line) > 2 for line in lines):
        raise InputError(
            f"{named} must hold a prompt a line, or on every line a tab and the prompt without the concept after it."
        )
    return tuple(line[0].strip() for line in lines), tuple(
        line[1].strip() for line in lines if len(line) == 2
    )


def prompts_of(file: Path, concepts: Sequence[str]) -> tuple[str, ...]:
    """Prompts as a person writes them, as templates: the concept that each names makes room for any other.

    Args:
        file: a prompt a line; empty lines are passed over.
        concepts: whose words are looked for, whole and in whatever case; the longest that occurs counts.

    Raises:
        InputError: if there is no such file, it is empty, or a line names no concept, or one more than once.

    Example:
        "Starry sky by van gogh" with the concept "Van Gogh" becomes "Starry sky by {}".
    """
    if not file.is_file():
        raise InputError(f"--prompts must be a file with a prompt a line; there is no file {file}.")
    found: dict[str, None] = {}
    looks = {c: _words(c) for c in sorted(concepts, key=len, reverse=True)}
    for prompt in filter(None, map(str.strip, file.read_text(encoding="utf-8").splitlines())):
        look = next((look for look in looks.values() if look.search(prompt)), None)
        if look is None:
            raise InputError(
                f"the prompt {prompt!r} in {file} names none of the concepts ({', '.join(concepts)}), so it says "
                "nothing of them. Leave it out, or give another name of a concept as golf ball|golfball."
            )
        template = look.sub("{}", prompt)
        if (
            template.count("{}") != 1
            or "{}" in prompt
            or any(other.search(template) for other in looks.values())
        ):
            raise InputError(
                f"the prompt {prompt!r} in {file} must name one concept, once, in words; templates with {{}} go to "
                "--templates."
            )
        found[template] = None
    if not found:
        raise InputError(f"{file} holds no prompt.")
    return tuple(found)


def _words(concept: str) -> re.Pattern[str]:
    """A concept's words, whole, side by side, in whatever case."""
    between = r"\s+".join(map(re.escape, concept.split()))
    return re.compile(rf"(?<!\w){between}(?!\w)", re.IGNORECASE)
