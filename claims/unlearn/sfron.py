"""Masked, self-weighting ascent beside training on the rest."""

from __future__ import annotations

from claims.unlearn._tuned import Study
from unweave.unlearn import SFRon

study = Study(
    name="SFRon",
    grid=[
        SFRon(lr=lr, coefficient=c, epochs=10) for lr in (0.01, 0.03) for c in (25.0, 100.0, 400.0, 1600.0)
    ],
    chosen={
        "random": SFRon(lr=0.03, coefficient=400.0, epochs=10),
        "class": SFRon(lr=0.01, coefficient=400.0, epochs=10),
    },
    beside={"SFRon defaults": {"random": SFRon(), "class": SFRon()}},
)
measure = study.measure
claim = study.claim(
    "SFR-on comes nearer to a retrained model than fine-tuning and than doing nothing, for random examples and for a class.",
    reported="the paper reports the smallest average gap of the methods it compares; no figure is quoted here",
    note="Chosen settings take the 10 passes that fine-tuning takes; the defaults take 4.",
)
