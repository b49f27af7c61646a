"""What every claim of this family measures: how far from retrained models a method ends, at the best of three rates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from torch.nn import Module

from claims.effects import Effect
from unweave import seeded
from unweave.audit.language.read import Told
from unweave.embedded.authors import Authors, known_models
from unweave.language import GradDiff
from unweave.statistics import Floats
from unweave.types import Data, Request

WORLD, GONE = Authors(), (0, 1, 2, 3)
RATES = (1e-4, 3e-4, 1e-3)
ORACLES = 4
DATA = (
    "40 invented authors with five facts each, a Llama of 2 blocks and width 96 that knows them; 4 authors are to be "
    "forgotten; 4 retrained models to compare with"
)
BASELINE = (
    "gradient ascent on the same texts for as many passes; both at the best of the same three learning rates"
)
Make = Callable[[float], Any]


def ascent(lr: float) -> GradDiff:
    return GradDiff.ascent(lr=lr)


def settings(name: str) -> tuple[str, ...]:
    return tuple(f"{name} lr {lr:g}" for lr in RATES)


def meanings(name: str) -> dict[str, str]:
    unit = "points, distance from retrained models in p(answer)^(1 / tokens), mean over deleted, retained and held-out texts"
    return {figure: unit for figure in ("no-op", *settings("ascent"), *settings(name))}


def effects(name: str) -> tuple[Effect, ...]:
    return (
        Effect(f"{name} over ascent", better=settings(name), worse=settings("ascent"), higher=False, margin=1.0),
        Effect(f"{name} over doing nothing", better=settings(name), worse="no-op", higher=False, headline=False),
    )  # fmt: skip


def parts(request: Request[Any]) -> tuple[Data[Any], ...]:
    return request.forget, request.retain, request.heldout


def probabilities(model: Module) -> Floats:
    """Mean length-normalised probability of deleted, retained and held-out texts, in points, [3]."""
    return np.array([100 * np.exp(-Told.of(model, d).losses).mean() for d in parts(WORLD.request(GONE))])


@lru_cache
def retrained() -> Floats:
    return np.mean([probabilities(m) for m in known_models(WORLD, range(100, 100 + ORACLES), GONE)], 0)


def gap(model: Module) -> float:
    return float(np.abs(probabilities(model) - retrained()).mean())


def measured(seed: int, methods: Mapping[str, Make]) -> dict[str, float]:
    """Gap of doing nothing, of ascent and of each method at each rate."""
    (model,), request = known_models(WORLD, [seed]), WORLD.request(GONE)
    found = {"no-op": gap(model)}
    for name, make in {"ascent": ascent, **methods}.items():
        for figure, lr in zip(settings(name), RATES, strict=True):
            found[figure] = gap(make(lr).apply(model, request, rng=seeded(seed)))
    return found
