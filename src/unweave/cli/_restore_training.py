"""The training of `unweave restore --train`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..catalogue import find
from ..errors import InputError
from ..jobs.restore import Restored
from ..jobs.restore_training import RestorerTraining
from ._named import make


def trained(asked: Any, given: Sequence[str]) -> Restored:
    """Train what was asked for; `given` are options of restoring, which would do nothing here."""
    idle = [*given, *(name for name in ("mask", "peak", "out") if getattr(asked, name) is not None)]
    if idle:
        raise InputError(f"--{idle[0]} would do nothing with --train. See: unweave restore --help.")
    if not asked.method:
        raise InputError("--train needs --method, what is trained. See: unweave restore --help.")
    job = RestorerTraining(
        folder=asked.train, method=make(find(asked.method), asked), crops=asked.crops, side=asked.side,
        batch_size=asked.batch, seed=asked.seed,
    )  # fmt: skip
    return job.run(asked.weights)
