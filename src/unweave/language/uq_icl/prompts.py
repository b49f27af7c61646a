"""How demonstrations and a text are put before a language model, and how its answers are read."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal, Protocol

from ...errors import InputError
from ...io.loading import quiet
from ...settings import checked

BLANK = "N/A"
"""Stands for a text without content."""


class Prompts(Protocol):
    """Puts demonstrations and a text before a model; `LabelPrompts` does for texts and a tokenizer."""

    @property
    def classes(self) -> int:
        """K, how many labels there are."""
        ...

    def ids(self, demonstrations: Sequence[tuple[Any, int]], text: Any) -> list[int]:
        """Token ids of a whole prompt, which the answer follows."""
        ...

    def variants(self) -> list[list[tuple[int, ...]]]:
        """For each label the token sequences that name it; their probabilities add up."""
        ...

    def read(self, answer: Sequence[int]) -> tuple[int, int] | None:
        """The label that an answer names, and how many of its tokens there are up to and with it; None for none."""
        ...

    def blank(self) -> Any:
        """A text without content."""
        ...


class LabelPrompts:
    """An instruction that names the labels, demonstrations, a text; the answer is a label's number or its name.

    Args:
        tokenizer: of transformers.
        labels: names, in the order of their numbers.
        instruction: comes first; one that names the labels unless given. It must hold every label to be answered.
        verbaliser: "digits" answers by number, "names" by name, which may be of several tokens.
        text: word before a text.
        label: word before a label.

    Raises:
        InputError: if there are fewer than two labels, two of them are alike, or a given instruction lacks one.
    """

    @checked
    def __init__(
        self,
        tokenizer: Any,
        labels: Sequence[str],
        *,
        instruction: str | None = None,
        verbaliser: Literal["digits", "names"] = "digits",
        text: str = "Text",
        label: str = "Label",
    ) -> None:
        if len(labels) < 2 or len(set(labels)) < len(labels):
            raise InputError(
                f"LabelPrompts.labels must be at least two different names; got {', '.join(labels) or 'none'}."
            )
        self.tokenizer, self.labels, self.words = tokenizer, list(labels), (text, label)
        self.answers = [str(i) for i in range(len(labels))] if verbaliser == "digits" else list(labels)
        if verbaliser == "digits":
            told = "the number of the label: " + ", ".join(f"{i} for {name}" for i, name in enumerate(labels))
        else:
            told = "one of these labels: " + ", ".join(labels)
        self.instruction = f"Answer with {told}." if instruction is None else instruction
        absent = [a for a in self.answers if a not in self.instruction]
        if absent:
            raise InputError(
                f"LabelPrompts.instruction does not name {absent[0]!r}, so the model cannot know it. Name every label."
            )

    @property
    def classes(self) -> int:
        """How many labels there are."""
        return len(self.labels)

    def prompt(self, demonstrations: Sequence[tuple[str, int]], text: str) -> str:
        """The prompt as text."""
        before, after = self.words
        shown = [f"{before}: {t}\n{after}: {self.answers[y]}\n\n" for t, y in demonstrations]
        return f"{self.instruction}\n\n{''.join(shown)}{before}: {text}\n{after}:"

    def ids(self, demonstrations: Sequence[tuple[str, int]], text: str) -> list[int]:
        """Token ids of the prompt, with what the tokenizer puts before a text."""
        with quiet():
            return list(self.tokenizer(self.prompt(demonstrations, text))["input_ids"])

    def variants(self) -> list[list[tuple[int, ...]]]:
        """Each label with and without a space before it, as tokens; different ones alone."""
        return self._variants

    @cached_property
    def _variants(self) -> list[list[tuple[int, ...]]]:
        found = []
        for answer in self.answers:
            ways = (
                tuple(self.tokenizer(f"{space}{answer}", add_special_tokens=False)["input_ids"])
                for space in (" ", "")
            )
            found.append(list(dict.fromkeys(way for way in ways if way)))
        every = [way for ways in found for way in ways]
        if len(set(every)) < len(every):
            raise InputError(
                f"LabelPrompts: the tokenizer writes two of the labels {', '.join(self.answers)} alike. Rename one."
            )
        return found

    def read(self, answer: Sequence[int]) -> tuple[int, int] | None:
        """The first label named before the answer's line ends; a number that is none of the labels ends it, too."""
        ways = [(way, y) for y, ways in enumerate(self.variants()) for way in ways]
        ways.sort(key=lambda pair: -len(pair[0]))
        for at in range(len(answer)):
            for way, y in ways:
                if tuple(answer[at : at + len(way)]) == way:
                    return y, at + len(way)
            said = self.tokenizer.decode([answer[at]])
            begun = self.tokenizer.decode(list(answer[:at])).strip()
            if any(c.isdigit() for c in said) or (begun and "\n" in said):
                return None
        return None

    def blank(self) -> str:
        """A text without content."""
        return BLANK
