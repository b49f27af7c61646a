"""Fine-tuning forgets little of random examples, and part of a class."""

from __future__ import annotations

from claims.framework import Claim
from claims.unlearn._table import DATA, against_noop, meanings, over_noop
from unweave.unlearn import FineTune

METHODS = {
    "FT lr 0.01": FineTune(),
    "FT lr 0.05": FineTune(lr=0.05),
    "CF-1": FineTune.cf_k(1, lr=0.05),
    "EU-1": FineTune.eu_k(1, lr=0.05),
}

claim = Claim(
    statement="Fine-tuning on the retain set comes nearer to a retrained model than doing nothing.",
    reported="average gap 3.78 points, against 1.15 of SalUn (quoted from memory: SalUn, table 1; CIFAR-10, "
    "ResNet-18, 10 % random examples)",
    from_memory=True,
    data=DATA,
    figures=meanings(METHODS),
    baseline="the untouched model (no-op) and, as noise floor, a second retrained model",
    criterion="FT (better of two learning rates) has a smaller mean gap than no-op by at least 1 point, for random "
    "examples and for a class",
    effects=over_noop("FT lr 0.01", "FT lr 0.05", margin=1),
    settings={name: repr(method) for name, method in METHODS.items()},
    note="CF-k and EU-k train the last layer alone; what the layers below know stays.",
)


def measure(seed: int) -> dict[str, float]:
    return against_noop(seed, METHODS)
