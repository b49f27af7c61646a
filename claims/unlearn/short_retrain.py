"""A retraining cut short comes near the right mask; un-pruning at the same cost has better accuracies."""

from __future__ import annotations

from claims.effects import Effect, within
from claims.framework import Claim
from claims.unlearn._unprune_study import EPOCHS, RECOVER, judge, sparse_world
from unweave.unlearn import Continue, ShortRetrain, Unprune

claim = Claim(
    statement="A retraining cut to an eighth comes as near to the retrained models' masks as un-pruning at "
    "the same cost does, but is further from their accuracies.",
    reported="ours, not a paper's",
    data="digits, noise 0.45, MLP 64-256-128-10, 90 % sparse by layer; class 3, and 180 random of 900",
    figures={
        f"{figure} ({kind})": meaning
        for kind in ("class", "random")
        for figure, meaning in (
            ("floor", "overlap of the untouched mask with two retrained models'"),
            ("short IoU", "overlap of the short retrain's mask, higher is better"),
            ("unpruned IoU", "the same for un-pruning"),
            ("short gap", "mean distance to them over UA, RA, TA in points, lower is better"),
            ("unpruned gap", "the same for un-pruning"),
        )
    },
    baseline="un-pruning, mode scout: 6 epochs of scouting, 2 at 0.2; the short retrain has of three rates "
    "for its last 2 epochs the one with the smallest gap in hindsight, for every seed",
    criterion="for both kinds of deletion the mean IoU of the two differ by at most 0.03, and "
    "un-pruning's mean gap is the smaller",
    effects=tuple(
        effect
        for kind, words in (("class", "class 3"), ("random", "random 20 %"))
        for effect in (
            *within(
                f"short IoU ({kind})",
                f"unpruned IoU ({kind})",
                0.03,
                f"{words}: mask overlap of both alike",
                unit="IoU",
            ),
            Effect(
                f"{words}: un-pruning's accuracies nearer",
                better=f"unpruned gap ({kind})",
                worse=f"short gap ({kind})",
                higher=False,
            ),
        )
    ),
    seeds=(40, 41, 42),
    settings={
        "recipe": f"{EPOCHS} epochs at 0.1, prune, {RECOVER} at 0.02",
        "short retrain": "6 epochs as the recipe begins, then 2 at 0.05, 0.1 or 0.2",
    },
)


def measure(seed: int) -> dict[str, float]:
    row: dict[str, float] = {}
    for kind in ("class", "random"):
        world = sparse_world(kind, seed, 0.45, 0.9, oracles=2)
        recipe = world.recipe
        short = [
            judge(world, ShortRetrain(recipe=recipe, epochs=6, of=EPOCHS, recover_lr=lr))
            for lr in (0.05, 0.1, 0.2)
        ]
        unpruned = judge(world, Unprune(recipe=recipe, unlearn=Continue(recipe=recipe, epochs=2, lr=0.2)))
        row |= {
            f"floor ({kind})": unpruned["floor"],
            f"short IoU ({kind})": short[0]["iou"],
            f"unpruned IoU ({kind})": unpruned["iou"],
            f"short gap ({kind})": min(one["gap"] for one in short),
            f"unpruned gap ({kind})": unpruned["gap"],
        }
    return row
