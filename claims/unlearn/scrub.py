"""SCRUB forgets where fine-tuning does not, and keeps the rest."""

from __future__ import annotations

from dataclasses import replace

from claims.unlearn._tuned import Kind, Study
from unweave.unlearn import SCRUB

CHOSEN: dict[Kind, SCRUB] = {
    "random": SCRUB(lr=3e-3, weight_decay=0.1, max_epochs=3),
    "class": SCRUB(lr=5e-4, weight_decay=5e-4, max_epochs=5),
}
study = Study(
    name="SCRUB",
    grid=[
        SCRUB(lr=lr, weight_decay=decay, max_epochs=m)
        for lr in (5e-4, 1e-3, 2e-3, 3e-3)
        for decay in (0.1, 5e-4)
        for m in (3, 5)
    ],
    chosen=CHOSEN,
    beside={
        "SCRUB defaults": {"random": SCRUB(), "class": SCRUB()},
        "SCRUB+R": {kind: replace(method, rewind=True) for kind, method in CHOSEN.items()},
    },
)
measure = study.measure
claim = study.claim(
    "SCRUB is nearer to a retrained model than fine-tuning and than doing nothing, for random examples and for a class.",
    reported="the paper reports SCRUB as the method that does well most consistently over its forgetting metrics",
    note="SCRUB+R has the chosen settings, too, and is meant for random examples.",
)
