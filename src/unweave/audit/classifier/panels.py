"""What the pictures of a classifier's audit show."""

from __future__ import annotations

import numpy as np

from ...tasks import read_labels
from ..result import Rows, Samples
from .compared import Compared
from .references import phi_of
from .topology import Topology


def panels(c: Compared, shape: Topology | None) -> tuple[Rows | Samples, ...]:
    """Scores of the forget set, accuracy class by class, masks layer by layer; those that there are."""
    classes, layers = _classes(c), shape.layers if shape else {}
    found: list[Rows | Samples] = [Samples(name="scores", unit="nats", samples=_scores(c))]
    if classes:
        found.append(Rows(name="classes", unit="%", rows=classes))
    if layers:
        found.append(Rows(name="layers", unit="share", rows=layers))
    return tuple(found)


def _scores(c: Compared) -> dict[str, list[float]]:
    """Logit-scaled confidence on each forget example; the mean over holders and over oracles."""
    holders = phi_of(c.holders_read)
    found = {
        "edited": c.edited_read.forget.phi,
        "original": holders[0],
        "holders": holders.mean(0),
    }
    if c.oracles:
        found["oracle"] = phi_of(c.oracles_read).mean(0)
    return {name: phi.tolist() for name, phi in found.items()}


def _classes(c: Compared) -> dict[str, dict[str, float]]:
    """Accuracy in % on held-out examples of each class."""
    if not hasattr(c.request.heldout.task, "labels"):
        return {}
    labels = read_labels(c.request.heldout).numpy()
    series = {"edited": [c.edited_read], "original": c.holders_read[:1], "oracle": c.oracles_read}
    return {
        str(k): {
            name: float(np.mean([r.heldout.at(labels == k).accuracy() for r in read]))
            for name, read in series.items()
            if read
        }
        for k in np.unique(labels).tolist()
    }
