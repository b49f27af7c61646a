"""SIMS on an under-trained small world: away from a copy trained on the model's own pictures."""

from __future__ import annotations

from claims.effects import Effect
from claims.framework import Claim
from claims.generate import _world as world
from unweave import seeded
from unweave.generate import SIMS, extrapolated

N, WEIGHTS = 800, (0.3, 0.6, 1.0, 1.5)

claim = Claim(
    statement="Drawing away from a copy of the model that was trained on the model's own pictures brings "
    "them nearer to real ones; the copy itself, and drawing towards it, are worse.",
    reported="the paper reports records of FID on CIFAR-10 and ImageNet-64",
    data=f"{world.DATA}; UNet of 500 steps; 800 pictures, 20 steps of DDIM at guidance 1; Fréchet distance "
    "in the judge's features to two disjoint halves of real pictures: w is chosen on one, the other is reported",
    figures={
        "base": "the model alone, lower is better",
        "SIMS": "at the chosen w, lower is better",
        "towards": "at w = -0.5, higher is the claim's side",
        "copy": "the copy alone, naive self-training, higher is the claim's side",
        "w": "the chosen weight",
    },
    baseline="the model alone from the same noise; the copy's training is a plain fine-tuning without a running mean",
    criterion="SIMS at most 0.96 of the base on every seed; w = -0.5 and the copy alone at least 1.15 of it",
    effects=(
        Effect(
            "SIMS, of the base's distance",
            better=lambda r: r["SIMS"] / r["base"],
            worse=0.96,
            unit="ratio",
            higher=False,
            every=True,
        ),
        Effect(
            "towards the copy, of the base's",
            better=lambda r: r["towards"] / r["base"],
            worse=1.15,
            unit="ratio",
        ),
        Effect(
            "the copy alone, of the base's", better=lambda r: r["copy"] / r["base"], worse=1.15, unit="ratio"
        ),
    ),
    seeds=world.SEEDS,
    settings={"samples": 1600, "steps": 120, "weights": list(WEIGHTS)},
)


def measure(seed: int) -> dict[str, float]:
    model, (choose, report) = world.original(seed, 500), world.real().chunk(2)
    copy = SIMS().apply(model, world.PROMPTS, rng=seeded(seed))
    tried = {}
    for w in WEIGHTS:
        with extrapolated(model.denoiser, copy.denoiser, w):
            tried[w] = world.drawn(model, N, seed)
    best = min(WEIGHTS, key=lambda w: world.distance(tried[w], choose))
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a negative weight is what is asked for here
        with extrapolated(model.denoiser, copy.denoiser, -0.5):
            towards = world.drawn(model, N, seed)
    return {
        "base": world.distance(world.drawn(model, N, seed), report),
        "SIMS": world.distance(tried[best], report),
        "towards": world.distance(towards, report),
        "copy": world.distance(world.drawn(copy, N, seed), report),
        "w": best,
    }
