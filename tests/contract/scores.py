"""Rows of scores: how to make one, and what it reads. Checks are in test_scores.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from unweave import prune


@dataclass(frozen=True, kw_only=True)
class ScoreRow:
    """A score's row.

    name: class name; the id of its tests.
    make: the score.
    reads: whether another data set gives other scores.
    random: whether torch's global seed governs it.
    texts: whether it takes models that read token ids.
    signed: whether a score may be negative.
    """

    name: str
    make: Callable[[], Any]
    reads: bool = True
    random: bool = False
    texts: bool = True
    signed: bool = False


SCORES = [
    # one row a score, in the order of the alphabet
    ScoreRow(name="GraSP", make=prune.GraSP, signed=True),
    ScoreRow(name="Gradient", make=prune.Gradient),
    ScoreRow(name="Magnitude", make=prune.Magnitude, reads=False),
    ScoreRow(name="RandomScores", make=prune.RandomScores, reads=False, random=True),
    ScoreRow(name="SNIP", make=prune.SNIP),
    ScoreRow(name="SynFlow", make=prune.SynFlow, reads=False, texts=False),
    ScoreRow(name="Taylor", make=prune.Taylor),
    ScoreRow(name="Wanda", make=prune.Wanda),
]
