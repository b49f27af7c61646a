"""What the simple unlearning claims share: a method beside the untouched model, on both kinds of request."""

from __future__ import annotations

from typing import Any

from claims.unlearn._gap import figures, gap
from claims.unlearn._world import world
from unweave import seeded

KINDS = ("random", "class")


def against_noop(seed: int, methods: dict[str, Any]) -> dict[str, float]:
    """Gaps to a retrained model, by request kind: of the untouched model, of another oracle, of each "
    "method."""
    row: dict[str, float] = {}
    for kind in KINDS:
        w = world(seed, kind)  # type: ignore[arg-type]
        row[f"{kind}: no-op"] = gap(w.original, w.oracle, w.request)
        row[f"{kind}: oracle"] = gap(w.another_oracle(seed), w.oracle, w.request)
        for name, method in methods.items():
            edited = method.apply(w.original, w.request, rng=seeded(seed))
            row[f"{kind}: {name}"] = gap(edited, w.oracle, w.request)
    return row


def meanings(methods: dict[str, Any]) -> dict[str, str]:
    """Figure names of `against_noop` with their units."""
    names = ["no-op", "oracle", *methods]
    return {
        f"{kind}: {name}": "points, mean gap of UA, RA, TA, MIA to retrain; 0 is best"
        for kind in KINDS
        for name in names
    }


def mean(rows: list[dict[str, float]], name: str) -> float:
    """Of one figure over the seeds."""
    return sum(row[name] for row in rows) / len(rows)


__all__ = ["KINDS", "against_noop", "figures", "meanings", "mean"]
