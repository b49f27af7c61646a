"""Gradual magnitude pruning against one cut, over the same epochs."""

from __future__ import annotations

from claims.effects import Effect
from claims.framework import Claim
from claims.prune._world import DATA, NETWORK, SEEDS, accuracy, data, dense
from unweave import seeded
from unweave.prune import GMP, Global, Prune

SPARSITY, EPOCHS = 0.97, 10

claim = Claim(
    statement="Sparsity that rises gradually during training costs less accuracy than the same sparsity cut "
    "at once.",
    reported="Inception-v3 on ImageNet at 87.5 %: 74.6 % top-1 against 78.1 % dense",
    data=f"{DATA}; {NETWORK}",
    figures={
        "dense": "per cent of held-out digits, higher is better",
        "gmp": "per cent of held-out digits, higher is better",
        "one shot": "per cent of held-out digits, higher is better",
    },
    baseline="one cut by magnitude and as many epochs of training under the mask; both at the better of the "
    "learning rates 0.02 and 0.05",
    criterion="mean accuracy of `gmp` is above that of `one shot`",
    effects=(Effect("gradual over one cut", better="gmp", worse="one shot"),),
    seeds=SEEDS,
    settings={"sparsity": SPARSITY, "epochs": EPOCHS},
    note="The better learning rate is chosen on the held-out digits, for both alike.",
)


def measure(seed: int) -> dict[str, float]:
    model, (train, heldout) = dense(seed), data()
    budget = Global(SPARSITY)
    once = Prune(budget=budget).apply(model, train, rng=seeded(seed))
    best = {"gmp": 0.0, "one shot": 0.0}
    for lr in (0.02, 0.05):
        edited = {
            "gmp": GMP(budget=budget, epochs=EPOCHS, lr=lr).apply(model, train, rng=seeded(seed)),
            # a cut of nothing: the same training, under the mask of the one cut
            "one shot": GMP(budget=Global(0.0), epochs=EPOCHS, lr=lr).apply(once, train, rng=seeded(seed)),
        }
        best = {name: max(best[name], accuracy(edited[name], heldout)) for name in best}
    return {"dense": accuracy(model, heldout), **best}
