"""What claims of tuned unlearners share: settings are chosen on seed 0 and measured on seeds 1, 2 and 3.

Chosen means: the smallest gap to seed 0's retrained model, for each kind of request alone, over a grid that
the claim lists; fine-tuning, the baseline, is given the same. That choice knows a retrained model: it
compares methods at their best, and is not what a user can do. `python -m claims.unlearn._tuned scrub` prints
a claim's whole grid on seed 0.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from typing import Any, Literal

from claims.unlearn._gap import figures, gap
from claims.unlearn._world import world
from unweave import seeded
from unweave.unlearn import FineTune

Kind = Literal["random", "class"]
KINDS: tuple[Kind, ...] = ("random", "class")
SEEDS = (1, 2, 3)
DATA = "digits with pixel noise 0.45, 900 to train on, MLP 64-256-256-10; forget a random 20 %, or class 3"
BASELINE = (
    "the untouched model (no-op), and fine-tuning on the retain set for 10 passes, its lr chosen like "
    "the method's "
    "settings; beside it at 0.1, the highest lr usual in the literature; a second retrained model as "
    "noise floor"
)

FINE_TUNE_GRID = tuple(FineTune(lr=lr) for lr in (0.01, 0.03, 0.1, 0.3, 0.6))
FINE_TUNE: Mapping[Kind, Any] = {"random": FineTune(lr=0.3), "class": FineTune(lr=0.3)}
BASELINES: Mapping[str, Mapping[Kind, Any]] = {
    "fine-tune": FINE_TUNE,
    "fine-tune lr 0.1": {"random": FineTune(lr=0.1), "class": FineTune(lr=0.1)},
}


def compare(seed: int, methods: Mapping[str, Mapping[Kind, Any]]) -> dict[str, float]:
    """Gap to retrain, by request kind, of the baselines and of each method's settings for that kind."""
    row: dict[str, float] = {}
    for kind in KINDS:
        w = world(seed, kind)
        row[f"{kind}: no-op"] = gap(w.original, w.oracle, w.request)
        row[f"{kind}: oracle"] = gap(w.another_oracle(seed), w.oracle, w.request)
        for name, settings in {**BASELINES, **methods}.items():
            edited = settings[kind].apply(w.original, w.request, rng=seeded(seed))
            row[f"{kind}: {name}"] = gap(edited, w.oracle, w.request)
    return row


def meanings(methods: Mapping[str, Any]) -> dict[str, str]:
    """Figure names of `compare`, with their unit and direction."""
    names = ("no-op", "oracle", *BASELINES, *methods)
    return {
        f"{kind}: {name}": "points from retrain, mean of UA, RA, TA, MIA; 0 is best"
        for kind in KINDS
        for name in names
    }


def below(rows: list[dict[str, float]], kind: Kind, name: str, *others: str, margin: float = 0.0) -> bool:
    """Whether the gap is smaller than each of the others' by more than `margin`, on every seed."""
    return all(row[f"{kind}: {name}"] < row[f"{kind}: {other}"] - margin for row in rows for other in others)


def main(name: str) -> None:
    grid = FINE_TUNE_GRID if name == "fine_tune" else importlib.import_module(f"claims.unlearn.{name}").GRID
    for kind in KINDS:
        w = world(0, kind)
        print(f"{kind}: retrained {_short(figures(w.oracle, w.request))}")
        for method in grid:
            edited = method.apply(w.original, w.request, rng=seeded(0))
            print(
                f"  {gap(edited, w.oracle, w.request):5.1f}  {_short(figures(edited, w.request))}  {method}"
            )


def _short(values: dict[str, float]) -> str:
    return " ".join(f"{name} {value:.1f}" for name, value in values.items())


if __name__ == "__main__":
    main(sys.argv[1])
