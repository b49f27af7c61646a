"""ITOP: more exploration, better sparse training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from claims.framework import Claim
from claims.prune._sparse_training import DATA, SEEDS, SETS, UNIT, accuracy, mean
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


def holds(rows: list[dict[str, float]]) -> bool:
    def rises(s: str, what: str) -> bool:
        never, seldom, often = (mean(rows, f"{s}, {how}{what}") for how in ("never", "seldom", "often"))
        return never < seldom < often

    return all(
        rises(s, "")
        and rises(s, ", R_s")
        and abs(mean(rows, f"{s}, often") - mean(rows, f"{s}, often, by gradient")) <= 1
        for s in SETS
    )
