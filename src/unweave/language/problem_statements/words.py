"""Comments as word numbers: cleaning, vocabulary, sentences."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...errors import InputError

PADDING, UNKNOWN = 0, 1
SENTENCES, WORDS, LONGEST = 15, 40, 128
"""Sentences of a comment, words of each of them, and words of a comment read in one go."""
_TAG, _ADDRESS = re.compile(r"<[^<>]*>"), re.compile(r"https?://\S+|www\.\S+")
_WORD = re.compile(r"[a-z0-9]+(?:'[a-z]+)?|[^\w\s]")
_END = re.compile(r"(?<=[.!?])\s+|\n+")


def cleaned(text: str) -> str:
    """Lower case, without markup and addresses; spelling and stop words stay, for "no problems" hangs on one."""
    return " ".join(_ADDRESS.sub(" ", _TAG.sub(" ", text)).lower().split())


def words_of(text: str) -> list[str]:
    """Words and marks of a comment."""
    return _WORD.findall(cleaned(text))


def sentences_of(text: str) -> list[list[str]]:
    """Words of each sentence; one without words is none."""
    plain = _ADDRESS.sub(" ", _TAG.sub(" ", text)).lower().strip()
    return [found for part in _END.split(plain) if (found := _WORD.findall(part))]


@dataclass(frozen=True)
class Vocabulary:
    """Words and their numbers, from 2 on; 0 is padding, 1 any other word.

    Attributes:
        words: word -> number.
    """

    words: dict[str, int]

    @classmethod
    def of(cls, texts: Iterable[str], *, least: int = 2, most: int = 20_000) -> Vocabulary:
        """The words that occur at least `least` times, the `most` frequent of them."""
        counts = Counter(word for text in texts for word in words_of(text))
        kept = [word for word, n in counts.most_common(most) if n >= least]
        return cls({word: i + 2 for i, word in enumerate(kept)})

    def __len__(self) -> int:
        return len(self.words) + 2

    def flat(self, texts: Sequence[str], most: int = LONGEST) -> Tensor:
        """Numbers [n, t] of each comment's first words, filled up to the longest."""
        rows = [[self.words.get(w, UNKNOWN) for w in words_of(text)[:most]] for text in texts]
        return _filled(rows, max([5, *map(len, rows)]))

    def nested(self, texts: Sequence[str]) -> Tensor:
        """Numbers [n, s, w] of the first sentences' first words, filled up to the most and the longest."""
        found = [
            [[self.words.get(w, UNKNOWN) for w in s[:WORDS]] for s in sentences_of(text)[:SENTENCES]]
            for text in texts
        ]
        long = max(1, *(len(s) for rows in found for s in rows)) if any(found) else 1
        most = max([1, *map(len, found)])
        empty: list[int] = []
        return torch.stack([_filled([*rows, *([empty] * (most - len(rows)))], long) for rows in found])

    def vectors(self, file: Path) -> Tensor:
        """Pretrained vectors of the words [vocabulary, width], zero where the file has none.

        Args:
            file: a line a word, its numbers after it, as GloVe's.

        Raises:
            InputError: if the file cannot be read so, or knows none of the words.
        """
        found: dict[int, list[float]] = {}
        width = number = 0
        try:
            with Path(file).open(encoding="utf-8") as opened:
                for number, line in enumerate(opened, 1):  # noqa: B007
                    word, *numbers = line.rstrip().split(" ")
                    if word in self.words:
                        found[self.words[word]] = [float(v) for v in numbers]
                        width = width or len(numbers)
                        if len(numbers) != width:
                            raise ValueError(f"{len(numbers)} numbers, {width} before")
        except (OSError, ValueError) as error:
            raise InputError(
                f"{file}, line {number}: no word with its numbers ({error}). Give vectors as GloVe's."
            ) from error
        if not found or not width:
            raise InputError(
                f"{file} knows none of the {len(self.words)} words. Give vectors of the texts' language."
            )
        table = torch.zeros(len(self), width)
        table[list(found)] = torch.tensor(list(found.values()))
        return table


def _filled(rows: Sequence[Sequence[int]], width: int) -> Tensor:
    made = torch.full((len(rows), width), PADDING)
    for row, ids in zip(made, rows, strict=True):
        row[: len(ids)] = torch.tensor(ids, dtype=torch.long)
    return made
