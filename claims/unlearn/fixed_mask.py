"""Deleted data changes the pruned topology, and unlearning under the unchanged mask leaves it changed."""

from __future__ import annotations

from claims.effects import Effect
from claims.framework import Claim
from claims.unlearn._unprune_study import EPOCHS, RECOVER, judge, sparse_world
from unweave.unlearn import Continue, FixedMask

claim = Claim(
    statement="Deleted data changes which weights survive pruning: the mask of the model that saw them, "
    "which unlearning under a fixed mask keeps, is farther from retrained models' masks than "
    "these from each other.",
    reported="the un-pruning paper reports it in pictures whose values are not known to us",
    data="digits, noise 0.45, MLP 64-256-128-10, 90 % sparse by layer; class 3, and 180 random of 900",
    figures={
        f"{figure} ({kind})": meaning
        for kind in ("class", "random")
        for figure, meaning in (
            ("IoU", "overlap of the fixed mask with two retrained models'"),
            ("ceiling", "overlap of these two, which differ in batch order"),
            ("chance", "overlap of independent masks"),
            ("gap", "mean distance to them over UA, RA, TA in points, lower is better"),
        )
    },
    baseline="two models retrained from the same initial weights and pruned by the same rule",
    criterion="for every seed and both kinds of deletion the fixed mask's IoU is at least 0.05 below the "
    "ceiling",
    effects=tuple(
        Effect(
            f"{words}: the kept mask's fall below the ceiling",
            better=f"ceiling ({kind})",
            worse=f"IoU ({kind})",
            unit="IoU",
            margin=0.05,
            every=True,
        )
        for kind, words in (("class", "class 3"), ("random", "random 20 %"))
    ),
    seeds=(30, 31, 32),
    settings={"recipe": f"{EPOCHS} epochs at 0.1, prune, {RECOVER} at 0.02", "unlearn": "8 epochs at 0.1"},
)


def measure(seed: int) -> dict[str, float]:
    row: dict[str, float] = {}
    for kind in ("class", "random"):
        world = sparse_world(kind, seed, 0.45, 0.9, oracles=2)
        found = judge(world, FixedMask(unlearn=Continue(recipe=world.recipe, epochs=8, lr=0.1)))
        row |= {
            f"IoU ({kind})": found["iou"],
            f"ceiling ({kind})": found["ceiling"],
            f"chance ({kind})": found["chance"],
            f"gap ({kind})": found["gap"],
        }
    return row
