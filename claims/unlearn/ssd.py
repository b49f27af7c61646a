"""Dampening the forget set's own weights forgets without training."""

from __future__ import annotations

from claims.unlearn._tuned import Study
from unweave.unlearn import SSD

study = Study(
    name="SSD",
    grid=[SSD(alpha=a, batch_size=b) for a in (1.0, 1.5, 2.0, 3.0, 4.0) for b in (None, 1)],
    chosen={"random": SSD(alpha=2.0, batch_size=None), "class": SSD(alpha=1.5, batch_size=1)},
    beside={
        "SSD alpha 4": {"random": SSD(alpha=4.0, batch_size=None), "class": SSD(alpha=4.0, batch_size=None)}
    },
)
measure = study.measure
claim = study.claim(
    "Dampening, without training, comes nearer to a retrained model than fine-tuning and than doing nothing, for random "
    "examples and for a class.",
    reported="the paper reports results competitive with retraining-based methods; no figure is quoted here",
    note="The default alpha of 10 selects no weight in these requests: with a random 20 %, at most alpha = 5 can; one row "
    "has alpha = 4.",
)
