"""Fisher forgetting of a class, beside the untouched model, a tuned fine-tune, and plain noise of equal "
"norm."""

from __future__ import annotations

import torch
from torch.nn import Module

from claims.effects import Effect
from claims.framework import Claim
from claims.unlearn._gap import figures, gap
from claims.unlearn._world import World, world
from unweave import seeded
from unweave.derivatives import Point
from unweave.unlearn import FineTune, FisherForgetting

RATES = (1e-3, 1e-2, 3e-2, 1e-1, 3e-1)
METHOD = FisherForgetting()

claim = Claim(
    statement="noise shaped by the retain set's Fisher information forgets a class better than fine-tuning "
    "does, and "
    "costs the retain set less than isotropic noise",
    reported="the paper reports class forgetting that fine-tuning does not reach, at a small loss of "
    "accuracy "
    "(All-CNN on CIFAR-10 and Lacuna-10)",
    data="digits with pixel noise 0.45, MLP 64-256-256-10, 900 examples; class 3 to forget",
    figures={
        **{
            f"{name} gap": "points of average gap to a retrained model (UA, RA, TA, MIA), lower is better"
            for name in ("fisher", "isotropic", "fine-tune", "untouched")
        },
        **{f"{name} UA": "% of the forget set wrong; the oracle has 100" for name in ("fisher", "isotropic")},
        **{f"{name} RA": "% of the retain set right, higher is better" for name in ("fisher", "isotropic")},
    },
    baseline="FineTune, 10 epochs, the best of 5 learning rates on each seed by the gap itself; isotropic "
    "noise of the "
    "same norm as Fisher forgetting's, mean over 3 draws",
    criterion="mean gap below the untouched model's and the best fine-tune's, and mean RA above isotropic "
    "noise's",
    effects=(
        *(
            Effect(f"nearer than {words}", better="fisher gap", worse=f"{name} gap", higher=False)
            for name, words in (("untouched", "no-op"), ("fine-tune", "the best fine-tuning"))
        ),
        Effect("retain accuracy over isotropic noise", better="fisher RA", worse="isotropic RA"),
    ),
    settings={"method": repr(METHOD), "fine-tune lr": RATES},
    note="alpha, power, largest_std and pool are the defaults; of 48 settings on seed 100 they had the "
    "lowest gap with RA "
    "of at least 85",
    seeds=(1, 2, 3),
)


def isotropic(w: World, like: Module, seed: int) -> Module:
    """The original with plain Gaussian noise as long as the change in `like`."""
    point = Point.of(w.original, w.request.retain.task, "claim")
    change = Point.of(like, w.request.retain.task, "claim").here - point.here
    noise = torch.randn(len(change), generator=seeded(900 + seed))
    return point.write(w.original, noise * change.norm() / noise.norm(), "claim")


def measure(seed: int) -> dict[str, float]:
    w = world(seed, forget="class")
    row = {"untouched gap": gap(w.original, w.oracle, w.request)}
    tuned = [FineTune(lr=lr).apply(w.original, w.request, rng=seeded(seed)) for lr in RATES]
    row["fine-tune gap"] = min(gap(model, w.oracle, w.request) for model in tuned)
    shaped = [METHOD.apply(w.original, w.request, rng=seeded(10 * seed + draw)) for draw in range(3)]
    plain = [isotropic(w, model, 10 * seed + draw) for draw, model in enumerate(shaped)]
    for name, models in (("fisher", shaped), ("isotropic", plain)):
        row[f"{name} gap"] = sum(gap(m, w.oracle, w.request) for m in models) / len(models)
        for figure in ("UA", "RA"):
            row[f"{name} {figure}"] = sum(figures(m, w.request)[figure] for m in models) / len(models)
    return row
