"""Made-up figures of reference models, where the truth is known."""

from __future__ import annotations

from typing import Any

import numpy as np

from unweave.audit.classifier.readings import Readings
from unweave.audit.classifier.ruler import Places, Ruler, Vectors
from unweave.audit.classifier.standard import Standard

N, CONTROL = 300, 1000
HARD, EASY = (np.random.default_rng(seed).normal(4, 3, size) for seed, size in ((0, N), (1, CONTROL)))


def vectors(
    models: int,
    *,
    member: float,
    seed: int,
    gap: float = 2.2,
    shift: float = 0.0,
    stretch: float = 1.0,
) -> Vectors:
    """Models whose phi on a forget example is its difficulty, plus `gap` where it was trained on, plus noise."""
    draw = np.random.default_rng(1000 + seed)
    trained = np.arange(N) < member * N
    forget = HARD + gap * trained + draw.normal(0, 1, (models, N)) + draw.normal(0, 0.03, (models, 1))
    rest = EASY + draw.normal(0, 1, (models, CONTROL))
    return Vectors.matched(shift + stretch * forget, shift + stretch * rest, 10)


def readings(places: Places, **other: Any) -> Readings:
    """Places on the ruler of answers with every other figure an oracle's (or as told); all [k]."""
    k = len(places.kept)
    draw = np.random.default_rng(k)
    usual = {
        "hidden": 1 + draw.normal(0, 0.02, k), "trace": np.full(k, np.nan), "relearn": np.full(k, np.nan),
        "mask": np.full(k, np.nan), "heldout": 85 + draw.normal(0, 0.5, k), "retain": np.full(k, 100.0),
    }  # fmt: skip
    return Readings(
        places, **{name: np.broadcast_to(other.get(name, v), k) + 0.0 for name, v in usual.items()}
    )


def standard(ruler: Ruler, *, whole: bool = False, several: int = 1, **other: Any) -> Standard:
    """Limits by a ruler's references; `other` replaces figures: name -> (holders', oracles')."""
    held, never = ruler.references
    k = len(held.kept)
    sets = {"hidden": (np.random.default_rng(9).normal(0, 0.02, k), None), **other}
    both = [
        readings(places, **{name: pair[i] for name, pair in sets.items() if pair[i] is not None})
        for i, places in enumerate((held, never))
    ]
    return Standard(
        *both, whole=whole, information=ruler.information, effective=ruler.effective, several=several
    )


RULER = Ruler(vectors(8, member=1, seed=1), vectors(8, member=0, seed=2))
STANDARD = standard(RULER)


def outcomes(
    group: Vectors, ruler: Ruler = RULER, held_to: Standard | None = None, **other: Any
) -> list[str]:
    """What each of the models is called."""
    held_to = held_to or (STANDARD if ruler is RULER else standard(ruler))
    found = readings(ruler.read(group), **other)
    return [held_to.find(found.at([i])).outcome for i in range(len(group))]
