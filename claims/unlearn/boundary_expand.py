"""A shadow class takes a class away without any other data."""

from __future__ import annotations

from claims.unlearn._tuned import Study
from unweave.unlearn import BoundaryExpand

study = Study(
    name="BoundaryExpand",
    grid=[BoundaryExpand(lr=lr) for lr in (1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)],
    chosen={"random": BoundaryExpand(lr=1e-3), "class": BoundaryExpand(lr=1e-3)},
    beside={"BoundaryExpand defaults": {"random": BoundaryExpand(), "class": BoundaryExpand()}},
    kinds=("class",),
)
measure = study.measure
claim = study.claim(
    "Learning a class as a shadow class that is then dropped comes nearer to a retrained model than fine-tuning and than "
    "doing nothing.",
    reported="average gap 2.8 points (quoted from memory: SalUn, table 1; CIFAR-10, ResNet-18, 10 % random examples)",
    from_memory=True,
    note="The paper forgets classes; random examples are shown beside them. The retain set is not read.",
)
