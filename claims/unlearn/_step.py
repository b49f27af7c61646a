"""What the claims of a single second-order step share: beside the untouched model and a tuned fine-tune."""

from __future__ import annotations

from typing import Any

from claims.effects import Effect
from claims.unlearn._gap import gap
from claims.unlearn._tuned import KINDS, WORDS
from claims.unlearn._world import world
from unweave import seeded
from unweave.unlearn import FineTune

RATES = (1e-3, 1e-2, 3e-2, 1e-1, 3e-1)
SEEDS = (1, 2, 3)
DATA = "digits with pixel noise 0.45, MLP 64-256-256-10, 900 examples; 20 % random ones or class 3 to forget"
BASELINE = "FineTune, 10 epochs, the best of 5 learning rates on each seed by the gap itself (which needs the oracle and so flatters it)"
CRITERION = (
    "mean gap below the untouched model's and below the best fine-tune's, for random and class deletion"
)


def figures(name: str) -> dict[str, str]:
    return {
        f"{kind} {n}": "points of average gap to a retrained model (UA, RA, TA, MIA), lower is better"
        for kind in KINDS
        for n in (name, "fine-tune", "untouched", "second retrained model")
    }


def measured(seed: int, name: str, method: Any) -> dict[str, float]:
    row = {}
    for kind in KINDS:
        w = world(seed, forget=kind)
        edited = method.apply(w.original, w.request, rng=seeded(seed))
        tuned = [FineTune(lr=lr).apply(w.original, w.request, rng=seeded(seed)) for lr in RATES]
        row[f"{kind} {name}"] = gap(edited, w.oracle, w.request)
        row[f"{kind} fine-tune"] = min(gap(model, w.oracle, w.request) for model in tuned)
        row[f"{kind} untouched"] = gap(w.original, w.oracle, w.request)
        row[f"{kind} second retrained model"] = gap(w.another_oracle(seed), w.oracle, w.request)
    return row


def nearer(name: str, *, paper: float | None = None) -> tuple[Effect, ...]:
    """Effects: nearer than the untouched model and than fine-tuning at its best.

    paper: the paper's own difference to fine-tuning, for random examples.
    """
    return tuple(
        Effect(
            f"{WORDS[kind]}: nearer than {words}",
            better=f"{kind} {name}", worse=f"{kind} {other}", higher=False, floor=f"{kind} second retrained model",
            paper=paper if (kind, other) == ("random", "fine-tune") else None,
        )
        for kind in KINDS
        for other, words in (("untouched", "no-op"), ("fine-tune", "the best fine-tuning"))
    )  # fmt: skip
