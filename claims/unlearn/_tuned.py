"""What claims of tuned unlearners share: settings are chosen on seed 0 and measured on others.

Chosen means: the smallest gap to seed 0's retrained model, for each kind of request alone, over a grid that
the claim lists; fine-tuning, the baseline, is given the same. That choice knows a retrained model: it
compares methods at their best, and is not what a user can do. `python -m claims.unlearn._tuned scrub` prints
a claim's whole grid on seed 0.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from claims.effects import Effect
from claims.framework import Claim
from claims.unlearn._gap import figures, gap
from claims.unlearn._world import world
from unweave import seeded
from unweave.unlearn import FineTune

Kind = Literal["random", "class"]
KINDS: tuple[Kind, ...] = ("random", "class")
WORDS: Mapping[Kind, str] = {"random": "random 20 %", "class": "class 3"}
SEEDS = (1, 2, 3)
DATA = "digits with pixel noise 0.45, 900 to train on, MLP 64-256-256-10; forget a random 20 %, or class 3"
BASELINE = (
    "the untouched model (no-op), and fine-tuning on the retain set for 10 passes, its lr chosen like the method's "
    "settings; beside it at 0.1, the highest lr usual in the literature; a second retrained model as noise floor"
)
CHOICE = "Settings and the baseline's learning rate were chosen on seed 0 with a retrained model at hand."

FINE_TUNE_GRID = tuple(FineTune(lr=lr) for lr in (0.01, 0.03, 0.1, 0.3, 0.6))
FINE_TUNE: Mapping[Kind, Any] = {"random": FineTune(lr=0.3), "class": FineTune(lr=0.3)}
BASELINES: Mapping[str, Mapping[Kind, Any]] = {
    "fine-tune": FINE_TUNE,
    "fine-tune lr 0.1": {"random": FineTune(lr=0.1), "class": FineTune(lr=0.1)},
}


@dataclass(frozen=True, kw_only=True)
class Study:
    """A method at settings chosen from a grid, against tuned fine-tuning and the untouched model.

    name: of the method, in its figures' names.
    grid: what the settings were chosen from.
    chosen: the settings, for each kind of request.
    beside: other settings that are measured but do not decide, by name.
    kinds: the kinds of request that the claim is about.
    """

    name: str
    grid: Sequence[Any]
    chosen: Mapping[Kind, Any]
    beside: Mapping[str, Mapping[Kind, Any]] = field(default_factory=dict)
    kinds: tuple[Kind, ...] = KINDS

    def measure(self, seed: int) -> dict[str, float]:
        """Gaps to the retrained model."""
        return compare(seed, self._methods())

    def claim(
        self,
        statement: str,
        *,
        reported: str,
        from_memory: bool = False,
        note: str = "",
        seeds: tuple[int, ...] = SEEDS,
    ) -> Claim:
        """The claim that its gap is the smaller one, on every seed."""
        requests = "both requests" if len(self.kinds) > 1 else "a class"
        return Claim(
            statement=statement,
            reported=reported,
            from_memory=from_memory,
            data=DATA,
            figures=meanings(self._methods()),
            baseline=BASELINE,
            criterion=f"for {requests}, the gap with chosen settings is smaller than that of the no-op and of tuned fine-tuning, on every seed",
            effects=nearer(self.name, self.kinds),
            seeds=seeds,
            settings={
                "chosen": {kind: repr(method) for kind, method in self.chosen.items()},
                "grid": [repr(method) for method in self.grid],
            },
            note=f"{CHOICE} {note}".strip(),
        )

    def _methods(self) -> dict[str, Mapping[Kind, Any]]:
        return {**self.beside, self.name: self.chosen}


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


def nearer(name: str, kinds: Sequence[Kind] = KINDS) -> tuple[Effect, ...]:
    """Effects: its gap is smaller than the untouched model's and than tuned fine-tuning's, on every seed."""
    return tuple(
        Effect(
            f"{WORDS[kind]}: nearer than {words}",
            better=f"{kind}: {name}", worse=f"{kind}: {other}", higher=False, every=True, floor=f"{kind}: oracle",
        )
        for kind in kinds
        for other, words in (("no-op", "no-op"), ("fine-tune", "tuned fine-tuning"))
    )  # fmt: skip


def main(name: str) -> None:
    grid = (
        FINE_TUNE_GRID
        if name == "fine_tune"
        else importlib.import_module(f"claims.unlearn.{name}").study.grid
    )
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
