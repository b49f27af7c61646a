"""What a job measures, told to an experiment tracker: settings, the loss at every step, and the figures at the end.

Through accelerate's trackers, which know how each service wants to be spoken to.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from ..errors import InputError, require
from ..fit.context import heard_by
from .done import Done

Tracker = Literal["tensorboard", "mlflow", "wandb"]
FOLDER, RUNS = "tracking", "mlruns"
"""Beside a run: where tensorboard's files go, and mlflow's without an address and without a database."""
_EXTRA = {"tensorboard": "track", "mlflow": "track", "wandb": "track"}
_NAMES = {"tensorboard": "TensorBoardTracker", "mlflow": "MLflowTracker", "wandb": "WandBTracker"}


class Tracking:
    """A run, as a tracker knows it.

    Attributes:
        tracker: which one.
    """

    def __init__(self, tracker: Any) -> None:
        self.tracker = tracker
        self._trainings = 0
        self._of = ""

    def heard(self, label: str, step: int, loss: float) -> None:
        """Tell the loss at a step of a training; each training of the run has a curve of its own."""
        if step == 1 or not self._trainings or label != self._of:
            self._trainings, self._of = self._trainings + 1, label
        name = f"{self._trainings} {label}".strip()
        self.tracker.log({_tag(f"loss/training {name}"): loss}, step=step)

    def tell(self, done: Done) -> None:
        """Tell a finished job's figures."""
        self.tracker.log({_tag(name): value for name, value in figures(done).items()}, step=0)


@contextmanager
def tracked(tracker: Tracker | None, folder: Path, settings: Mapping[str, Any]) -> Iterator[Tracking | None]:
    """Follow what runs in the block; nothing where no tracker is named.

    Args:
        tracker: whom to tell. Where mlflow and wandb send it is set as they want it (MLFLOW_TRACKING_URI, wandb login);
            mlflow without an address and without a database (mlflow-skinny) writes into `mlruns` beside the run.
        folder: of the run; its name is the run's, and tensorboard's files go into `tracking` beside it.
        settings: of the job.

    Raises:
        MissingExtraError: if the tracker or accelerate is not installed.
        InputError: if the tracker refuses to begin.
    """
    if tracker is None:
        yield None
        return
    purpose = f"--tracker {tracker}"
    require(tracker, extra=_EXTRA[tracker], purpose=purpose)
    kinds = require("accelerate.tracking", extra=_EXTRA[tracker], purpose=purpose)
    kind = getattr(kinds, _NAMES[tracker])
    if tracker == "mlflow" and "MLFLOW_TRACKING_URI" not in os.environ and find_spec("sqlalchemy") is None:
        os.environ["MLFLOW_TRACKING_URI"] = (folder.resolve().parent / RUNS).as_uri()
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    try:
        made = _made(kind, tracker, folder.resolve())
        if hasattr(made, "start"):  # accelerate from 1.8 on begins apart from the constructor
            made.start()
        made.store_init_configuration({_tag(k): v for k, v in _flat(settings).items()})
    except Exception as error:  # each service has errors of its own
        raise InputError(
            f"{tracker} cannot be told of this run ({' '.join(str(error).split())[:300]})."
        ) from error
    tracking = Tracking(made)
    try:
        with heard_by(tracking.heard):
            yield tracking
    finally:
        made.finish()


def _made(kind: Any, tracker: Tracker, folder: Path) -> Any:
    if tracker == "tensorboard":
        return kind(folder.name, logging_dir=str(folder.parent / FOLDER))
    if tracker == "mlflow":
        return kind(experiment_name="unweave", run_name=folder.name)
    return kind("unweave", name=folder.name)


def figures(done: Done) -> dict[str, float]:
    """Name -> value of every figure of a finished job that is a number."""
    found: dict[str, float] = {}
    for audit in getattr(done, "audits", ()):
        found |= {f"{audit.method}/{m.name}": m.value for m in audit.measurements if m.value is not None}
        if audit.verdict.position is not None:
            found[f"{audit.method}/position"] = audit.verdict.position
    for name, value in dict(getattr(done, "figures", {})).items():
        parts = value if isinstance(value, (tuple, list)) else (value,)
        numbers = [p for p in parts if isinstance(p, (int, float)) and not isinstance(p, bool)]
        labels = ("before", "after") if len(numbers) == 2 else ("",)
        found |= {f"{name} {label}".strip(): float(n) for label, n in zip(labels, numbers, strict=False)}
    return found


def _flat(tree: Any, prefix: str = "") -> dict[str, str | int | float | bool]:
    if isinstance(tree, Mapping):
        found: dict[str, str | int | float | bool] = {}
        for key, value in tree.items():
            found |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
        return found
    return {prefix: tree if isinstance(tree, (str, int, float, bool)) else str(tree)}


def _tag(name: str) -> str:
    """A name that every tracker takes: letters, digits, spaces and /-_. only."""
    return re.sub(r"[^\w\-./ ]", "_", name)[:240]
