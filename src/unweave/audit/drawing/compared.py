"""All that a verdict on a pipeline reads: what everyone drew, how far the rest strayed, what attacks brought back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...erase import Concepts
from .drawn import Drawn, Hits


@dataclass(frozen=True, kw_only=True)
class Strayed:
    """How far images of prompts without any concept lie from the original's, by its own other half.

    Attributes:
        outside: the edited pipeline's images farther from all of the original's than 95 % of its own others are; and
            how many there are.
        missing: the original's images with none of the edited pipeline's as near as its own others are to 95 %; and
            how many there are.
    """

    outside: Hits
    missing: Hits


@dataclass(frozen=True, kw_only=True)
class Tried:
    """What an attack brought back: concept -> attacked prompts that drew it, and how many there were.

    Attributes:
        name: of the attack.
        edited: in the pipeline in question.
        control: the same pipeline under as many random candidates; empty if there was no such control.
        never: in the pipelines retrained without the concepts, all together; empty without any.
    """

    name: str
    edited: Mapping[str, Hits]
    control: Mapping[str, Hits]
    never: Mapping[str, Hits]

    @property
    def null(self) -> Mapping[str, Hits]:
        """What success is measured against: the retrained pipelines, else the random candidates."""
        return self.never or self.control


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What the pipelines drew.

    Attributes:
        concepts: erased and preserved.
        edited: drawn by the pipeline in question.
        original: by the pipeline before the edit.
        oracles: by pipelines retrained without the concepts; may be empty.
        neighbours: concepts that nobody named, nearest to the erased ones, which the judge knows.
        earlier: concepts that were erased from the original before.
        strayed: of prompts without any concept; None if they were not drawn.
        also_strayed: the same of the retrained pipelines, to be shown beside it.
        tried: attacks.
    """

    concepts: Concepts
    edited: Drawn
    original: Drawn
    oracles: Sequence[Drawn] = ()
    neighbours: tuple[str, ...] = ()
    earlier: tuple[str, ...] = ()
    strayed: Strayed | None = None
    also_strayed: Sequence[Strayed] = ()
    tried: Sequence[Tried] = ()

    @property
    def kept(self) -> tuple[str, ...]:
        """All concepts that must survive: those that were named, and their neighbours."""
        return (*self.concepts.preserve, *self.neighbours)

    def never(self, concepts: Sequence[str]) -> Hits:
        """Images of these concepts in which the judge sees them, over all retrained pipelines."""
        return total(o.hits(concepts) for o in self.oracles)

    def yardstick(self, concept: str) -> Hits:
        """How a kept concept should be drawn: as by the original, or the retrained pipeline that draws it least."""
        return min((d.hits([concept]) for d in (self.original, *self.oracles)), key=share)


def total(hits: object) -> Hits:
    """Hits and trials of several, summed."""
    rows = [*hits]  # type: ignore[misc]
    return (int(sum(h for h, _ in rows)), int(sum(n for _, n in rows)))


def share(hits: Hits) -> float:
    """Hits of trials as a share; NaN without trials."""
    return hits[0] / hits[1] if hits[1] else float(np.nan)
