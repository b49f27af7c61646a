"""What the simple unlearning claims share: a method beside the untouched model, on both kinds of request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from claims.effects import Effect
from claims.unlearn._gap import gap
from claims.unlearn._tuned import KINDS, WORDS
from claims.unlearn._world import world
from unweave import seeded

DATA = "digits with noise 0.45, MLP 64-256-256-10; random 20 %, and class 3"


def against_noop(seed: int, methods: Mapping[str, Any]) -> dict[str, float]:
    """Gaps to a retrained model, by request kind: of the untouched model, of another oracle, of each method."""
    row: dict[str, float] = {}
    for kind in KINDS:
        w = world(seed, kind)
        row[f"{kind}: no-op"] = gap(w.original, w.oracle, w.request)
        row[f"{kind}: oracle"] = gap(w.another_oracle(seed), w.oracle, w.request)
        for name, method in methods.items():
            edited = method.apply(w.original, w.request, rng=seeded(seed))
            row[f"{kind}: {name}"] = gap(edited, w.oracle, w.request)
    return row


def meanings(methods: Mapping[str, Any]) -> dict[str, str]:
    """Figure names of `against_noop` with their units."""
    return {
        f"{kind}: {name}": "points, mean gap of UA, RA, TA, MIA to retrain; 0 is best"
        for kind in KINDS
        for name in ("no-op", "oracle", *methods)
    }


def over_noop(*settings: str, margin: float) -> tuple[Effect, ...]:
    """Effects: at the best of these settings the gap is smaller than the untouched model's by so many points."""
    return tuple(
        Effect(
            f"{WORDS[kind]}: nearer than no-op",
            better=tuple(f"{kind}: {name}" for name in settings), worse=f"{kind}: no-op", higher=False,
            margin=margin, floor=f"{kind}: oracle",
        )
        for kind in KINDS
    )  # fmt: skip
