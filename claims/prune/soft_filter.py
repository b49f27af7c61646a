"""Soft filter pruning against filters cut once and held, over the same epochs."""

from __future__ import annotations

from claims.effects import Effect
from claims.framework import Claim
from claims.prune._world import DATA, NETWORK, SEEDS, accuracy, data, dense
from unweave import seeded
from unweave.prune import GMP, Channel, Global, Magnitude, Prune, Scope, SoftFilter, Uniform

RATE, EPOCHS = 0.7, 10

claim = Claim(
    statement="Filters that may grow back between cuts leave a better network than filters cut once and for "
    "all.",
    reported="ResNet-56 on CIFAR-10, 40 % of filters: accuracy 93.35 % against 92.26 % of hard pruning "
    "(quoted from memory)",
    from_memory=True,
    data=f"{DATA}; {NETWORK}",
    figures={
        "dense": "per cent of held-out digits, higher is better",
        "soft": "per cent of held-out digits, higher is better",
        "hard": "per cent of held-out digits, higher is better",
    },
    baseline="the same filters' share by l2 norm cut once, then as many epochs with the same optimiser "
    "under the mask",
    criterion="mean accuracy of `soft` is above that of `hard`",
    effects=(Effect("soft over hard cuts of filters", better="soft", worse="hard", paper=1.09),),
    seeds=SEEDS[:3],
    settings={"rate": RATE, "epochs": EPOCHS, "lr": 0.02},
)


def measure(seed: int) -> dict[str, float]:
    model, (train, heldout) = dense(seed), data()
    cut = Prune(score=Magnitude(scope=Scope(last=False)), pattern=Channel(), budget=Uniform(RATE))
    hard = GMP(budget=Global(0.0), epochs=EPOCHS).apply(
        cut.apply(model, train, rng=seeded(seed)), train, rng=seeded(seed)
    )
    soft = SoftFilter(rate=RATE, epochs=EPOCHS).apply(model, train, rng=seeded(seed))
    return {name: accuracy(m, heldout) for name, m in {"dense": model, "soft": soft, "hard": hard}.items()}
