"""MEST against static masks and SET."""

from __future__ import annotations

from claims.effects import Effect
from claims.framework import Claim
from claims.prune._sparse_training import SETS, SETTINGS, UNIT, accuracy
from unweave.prune import MEST, SET, StaticMask, Uniform

EVERY, BUDGET = 30, Uniform(0.9)
METHODS = {
    "MEST": MEST(budget=BUDGET, every=EVERY, ratio=0.02),
    "MEST EM&S": MEST(budget=BUDGET, every=EVERY, ratio=0.05, mode="em&s"),
    "SET": SET(budget=BUDGET, every=EVERY),
    "static uniform": StaticMask(budget=BUDGET),
}

claim = Claim(
    statement="Mutations that die down, with a soft bound on memory, train sparse networks better than a fixed mask, and EM&S better than EM.",
    reported="ResNet-32, CIFAR-10, 90 %: EM 92.56 %, EM&S 93.27 % (SET 92.3 %, dense 94.9 %)",
    data="digits without noise (900 to train on, 897 held out; MLP 64-256-256-10, 60 epochs) and Fashion-MNIST (3,000 to train on, "
    "2,000 held out; MLP 784-256-256-10, 20 epochs), 10 % of the weights alive",
    figures={f"{s}, {label}": UNIT for s in SETS for label in METHODS},
    baseline="the same training with SET's exchanges, and under a fixed random mask, all with a uniform budget",
    criterion="at 10 % density, on both sets, EM is above the static mask and EM&S above EM",
    effects=tuple(
        effect
        for s in SETS
        for effect in (
            Effect(f"{s}: EM over the fixed mask", better=f"{s}, MEST", worse=f"{s}, static uniform"),
            Effect(f"{s}: EM&S over EM", better=f"{s}, MEST EM&S", worse=f"{s}, MEST", paper=0.71),
        )
    ),
    seeds=(0, 1, 2, 3, 4),
    settings=SETTINGS | {"ratio": 0.02, "ratio of EM&S": 0.05},
    note="The second run. The first asked the same at 2 % density over 3 seeds and held, but on the digits the fixed mask was at chance "
    "there (10.2 %; EM 10.4 %, EM&S 12.9 %, SET 13.5 %), so that it said nothing. This one has the paper's 90 % sparsity, where every "
    "network learns, and the paper's ratios, for which 2 % had no room.",
)  # fmt: skip


def measure(seed: int) -> dict[str, float]:
    return {f"{s}, {label}": accuracy(s, method, seed) for s in SETS for label, method in METHODS.items()}
