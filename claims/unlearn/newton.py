"""One Newton step with noise, beside the untouched model and a tuned fine-tune."""

from __future__ import annotations

from claims.framework import Claim
from claims.unlearn._gap import gap
from claims.unlearn._world import world
from unweave import seeded
from unweave.unlearn import FineTune, Newton

RATES = (1e-3, 1e-2, 3e-2, 1e-1, 3e-1)

claim = Claim(
    statement="one Newton step lands nearer to a retrained model than the untouched model and fine-tuning do",
    reported="the paper reports forget-set accuracies and attack rates near those of retraining (MLP on "
    "MNIST, "
    "AllCNN on CIFAR-10, ResNet-18 on SVHN)",
    data="digits with pixel noise 0.45, MLP 64-256-256-10, 900 examples; 20 % random ones or class 3 to "
    "forget",
    figures={
        f"{kind} {name}": "points of average gap to a retrained model (UA, RA, TA, MIA), lower is better"
        for kind in ("random", "class")
        for name in ("newton", "fine-tune", "untouched", "second retrained model")
    },
    baseline="FineTune, 10 epochs, the best of 5 learning rates on each seed by the gap itself (which needs "
    "the "
    "oracle and so flatters it)",
    criterion="mean gap below the untouched model's and below the best fine-tune's, for random and class "
    "deletion",
    settings={"method": "Newton()", "fine-tune lr": RATES},
    note="noisy Newton, std 1e-3: not certified; damping was chosen on seeds 0 and 100, the claim is "
    "measured on seeds 1, 2 and 3",
    seeds=(1, 2, 3),
)


def measure(seed: int) -> dict[str, float]:
    row = {}
    for kind in ("random", "class"):
        w = world(seed, forget=kind)
        edited = Newton().apply(w.original, w.request, rng=seeded(seed))
        tuned = [FineTune(lr=lr).apply(w.original, w.request, rng=seeded(seed)) for lr in RATES]
        row[f"{kind} newton"] = gap(edited, w.oracle, w.request)
        row[f"{kind} fine-tune"] = min(gap(model, w.oracle, w.request) for model in tuned)
        row[f"{kind} untouched"] = gap(w.original, w.oracle, w.request)
        row[f"{kind} second retrained model"] = gap(w.another_oracle(seed), w.oracle, w.request)
    return row


def holds(rows: list[dict[str, float]]) -> bool:
    mean = {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
    return all(
        mean[f"{kind} newton"] < min(mean[f"{kind} fine-tune"], mean[f"{kind} untouched"])
        for kind in ("random", "class")
    )
