"""LAF forgets without labels: against fine-tuning, and what its two losses, its decoder and its repair each do."""

from __future__ import annotations

from typing import Any

from claims.unlearn._tuned import Study
from unweave.unlearn import LAF


def alone(**settings: Any) -> LAF:
    """The alignment step alone."""
    return LAF(lr_unlearn=0.0, **settings)


GRID = [
    *(LAF(lr_unlearn=u, lr_align=a) for u, a in ((5e-5, 1e-4), (5e-5, 1e-3), (5e-4, 3e-4), (5e-4, 1e-3), (5e-4, 3e-3))),
    LAF(density="gaussian", lr_unlearn=5e-5, lr_align=1e-3),
    LAF(density="gaussian", lr_unlearn=5e-4, lr_align=1e-3),
    LAF(decoder="sigmoid", lr_unlearn=5e-4, lr_align=1e-3),
    *(alone(lr_align=a) for a in (3e-4, 1e-3)),
]  # fmt: skip
study = Study(name="LAF", grid=GRID, chosen={"random": LAF(), "class": LAF()})
