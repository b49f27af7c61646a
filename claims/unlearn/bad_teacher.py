"""An incompetent teacher makes a network forget, and a competent one keeps the rest."""

from __future__ import annotations

from claims.unlearn._tuned import Study
from unweave.unlearn import BadTeacher

study = Study(
    name="BadTeacher",
    grid=[BadTeacher(lr=lr, epochs=epochs) for lr in (1e-4, 1e-3, 3e-3, 1e-2) for epochs in (5, 10)],
    chosen={"random": BadTeacher(lr=3e-3, epochs=5), "class": BadTeacher(lr=3e-3, epochs=10)},
    beside={"BadTeacher defaults": {"random": BadTeacher(), "class": BadTeacher()}},
)
measure = study.measure
claim = study.claim(
    "Distilling an untrained teacher on the forget set and the original on the rest comes nearer to a retrained model "
    "than fine-tuning and than doing nothing, for random examples and for a class.",
    reported="the paper reports accuracy on the forgotten class near the retrained model's; no figure is quoted here",
    note="No labels are read.",
)
