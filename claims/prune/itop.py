"""ITOP: more exploration, better sparse training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from claims.effects import Effect, within
from claims.framework import Claim
from claims.prune._sparse_training import DATA, SEEDS, SETS, UNIT, accuracy
from unweave.prune import ERK, ITOP, Explored, StaticMask

EVERY = {"often": 15, "seldom": 200, "never": 10**9}

claim = Claim(
    statement="The more of the weights were ever alive (R_s), the better the sparse network, and random growth then does as "
    "well as growth by gradient.",
    reported="ResNet-50, ImageNet: RigL-ITOP 75.8 % at 80 % sparse with R_s 0.93, 73.8 % at 90 % with 0.83 (RigL 75.1 and 73.1)",
    data=DATA,
    figures={
        **{f"{s}, {how}": UNIT for s in SETS for how in (*EVERY, "often, by gradient")},
        **{
            f"{s}, {how}, R_s": "share of the weights that were ever alive"
            for s in SETS
            for how in (*EVERY, "often, by gradient")
        },
    },
    baseline="the same training with few exchanges and with none, at 2 % density",
    criterion="on both sets R_s and accuracy both rise from never to seldom to often, and random growth is within 1 point of "
    "growth by gradient when exchanges are frequent",
    effects=tuple(
        effect
        for s in SETS
        for effect in (
            *(
                Effect(
                    f"{s}: {what} {more} over {less}",
                    better=f"{s}, {more}{of}",
                    worse=f"{s}, {less}{of}",
                    unit=unit,
                )
                for what, of, unit in (("accuracy,", "", "points"), ("R_s,", ", R_s", "share of the weights"))
                for less, more in (("never", "seldom"), ("seldom", "often"))
            ),
            *within(f"{s}, often", f"{s}, often, by gradient", 1, f"{s}: random near gradient growth"),
        )
    ),
    seeds=SEEDS,
    settings={"rate": 0.5, "steps between exchanges": EVERY},
)


@dataclass(frozen=True)
class Watched:
    """A fixed mask whose weights are noted, as ITOP notes its own."""

    of: StaticMask
    explored: Explored

    def begin(self, *args: Any, **rest: Any) -> Any:
        mask, change = self.of.begin(*args, **rest)
        return mask, self.explored.watching(mask, change)


def measure(seed: int) -> dict[str, float]:
    found = {}
    for s in SETS:
        for how, every in (*EVERY.items(), ("often, by gradient", EVERY["often"])):
            explored = Explored()
            grow = "gradient" if "gradient" in how else "random"
            sparse = (
                Watched(StaticMask(budget=ERK(0.98)), explored)
                if how == "never"
                else ITOP(grow=grow, budget=ERK(0.98), every=every, explored=explored)
            )
            found[f"{s}, {how}"] = accuracy(s, sparse, seed)
            found[f"{s}, {how}, R_s"] = explored.rate
    return found
