"""CrAM+ against SGD and SAM when the trained network is pruned at once."""

from __future__ import annotations

from torch.nn import Module

from claims.effects import Effect
from claims.framework import Claim
from claims.optim._world import SEEDS, SETS, accuracy, data, make, recipe
from unweave import Supervised, seeded
from unweave.optim import SAM, CrAM
from unweave.prune import Global, Prune

SPARSITIES = (0.7, 0.9)
MAKERS = {"SGD": None, "SAM": make(SAM, rho=0.1), "CrAM+": make(CrAM, rho=0.05)}

claim = Claim(
    statement="A network trained with CrAM+ can be pruned at once, without retraining, at little loss.",
    reported="ResNet-50, ImageNet: dense 77.3 %, pruned at once to 80 % 75.8 %, to 90 % 74.8 %",
    data="digits (clean labels, 900 to train on) and Fashion-MNIST (2,000 to train on), dense MLPs",
    figures={
        f"{s}, {label}, {kind}": "per cent of held-out examples, higher is better"
        for s in SETS for label in MAKERS for kind in ("dense", "70 % pruned", "90 % pruned")
    },
    baseline="SGD and SAM (rho 0.1), same epochs, batches and initial weights, pruned by magnitude over all layers",
    criterion="on both sets CrAM+ pruned to 90 % is above SGD and SAM pruned to 90 % by at least 2 points, and dense within 1 "
    "point of SGD",
    effects=tuple(
        effect
        for s in SETS
        for effect in (
            *(
                Effect(
                    f"{s}: pruned to 90 %, over {other}",
                    better=f"{s}, CrAM+, 90 % pruned", worse=f"{s}, {other}, 90 % pruned", margin=2,
                )
                for other in ("SGD", "SAM")
            ),
            Effect(f"{s}: dense, near SGD", better=f"{s}, CrAM+, dense", worse=f"{s}, SGD, dense", margin=-1),
        )
    ),
    seeds=SEEDS,
    settings={"rho": 0.05, "sparsities": "0.5, 0.7, 0.9"},
)  # fmt: skip


def measure(seed: int) -> dict[str, float]:
    found: dict[str, float] = {}
    for name in SETS:
        train, heldout = data(name, noise=0.0)
        for label, maker in MAKERS.items():
            how: Supervised = recipe(name)
            model = how.initial(seeded(seed))
            trained(model, how, maker, train, seed)
            found[f"{name}, {label}, dense"] = accuracy(model, heldout)
            for sparsity in SPARSITIES:
                pruned = Prune(budget=Global(sparsity)).apply(model, train, rng=seeded(0))
                found[f"{name}, {label}, {round(100 * sparsity)} % pruned"] = accuracy(pruned, heldout)
    return found


def trained(model: Module, how: Supervised, maker: object, train: object, seed: int) -> None:
    from dataclasses import replace

    replace(how, optimizer=maker).train_(model, train, epochs=how.epochs, lr=0.1, rng=seeded(100 + seed))
