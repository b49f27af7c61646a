"""Logit mask: perfect figures, nothing forgotten."""

from __future__ import annotations

from sklearn.linear_model import LogisticRegression
from torch.nn import Module

from claims.effects import Effect
from claims.framework import Claim
from claims.unlearn._gap import figures, gap
from claims.unlearn._world import World, world
from unweave import seeded
from unweave.tasks import predict, read_labels
from unweave.unlearn import LogitMask

PROBE = "%, balanced accuracy on held-out digits of a linear probe that finds the class in the features"

claim = Claim(
    statement="A silenced output looks like perfect class unlearning, while the features still hold the "
    "class.",
    reported="none: it is the adversary that audits must reject",
    data="digits with noise 0.2, MLP 64-256-256-10; class 3",
    figures={
        "UA": "%, error on the forgotten class; a retrained model has 100",
        "gap": "points, mean gap of UA, RA, TA, MIA to retrain; 0 is best",
        "no-op gap": "points, the same of the untouched model",
        "probe: logit mask": PROBE,
        "probe: original": PROBE,
        "probe: oracle": PROBE,
    },
    baseline="the untouched model, and a retrained one",
    criterion="on every seed UA is 100, the gap below 3, and the probe's accuracy above 90 and that of the "
    "untouched model",
    effects=(
        Effect("error on the forgotten class is 100 %", better="UA", worse=100.0, every=True),
        Effect("gap to retraining below 3", better="gap", worse=3.0, higher=False, every=True),
        Effect("the probe finds the class in over 90 %", better="probe: logit mask", worse=90.0, every=True),
        Effect(
            "the probe finds what it finds in the untouched model",
            better=lambda row: abs(row["probe: logit mask"] - row["probe: original"]),
            worse=0.0,
            higher=False,
            every=True,
        ),
    ),
    note="One of three seeds misses only the probe's 90. Noise 0.2 in place of 0.45: at 0.45 no feature of any "
    "model tells the class that well. A retrained model's features tell it nearly as well, so such a probe "
    "alone does not prove remembering either.",
)


def probe(model: Module, w: World) -> float:
    """Balanced accuracy of "is it a 3?" on the second half of the held-out digits, fitted on the first."""
    features = predict(model, w.request.heldout, w.request.heldout.task.features).numpy()
    wanted = (read_labels(w.request.heldout) == 3).numpy()
    half = len(wanted) // 2
    found = LogisticRegression(max_iter=2000, class_weight="balanced").fit(features[:half], wanted[:half])
    guess, truth = found.predict(features[half:]), wanted[half:]
    return 50 * float((guess[truth]).mean() + (~guess[~truth]).mean())


def measure(seed: int) -> dict[str, float]:
    w = world(seed, "class", noise=0.2)
    edited = LogitMask().apply(w.original, w.request, rng=seeded(seed))
    return {
        "UA": figures(edited, w.request)["UA"],
        "gap": gap(edited, w.oracle, w.request),
        "no-op gap": gap(w.original, w.oracle, w.request),
        "probe: logit mask": probe(edited, w),
        "probe: original": probe(w.original, w),
        "probe: oracle": probe(w.oracle, w),
    }
