"""Memory under the answers, as figures: what the representation still knows, how soon the data are learned again."""

from __future__ import annotations

import numpy as np
from torch.nn import Module

from ...errors import InputError
from ...fit import each
from ...random import seeded
from ...statistics import wilson
from ...types import Measurement
from ..measured import measurement, missing
from .compared import NEAR, Compared
from .probe import class_mean_probe, linear_probe
from .readings import HEAD, RELEARN, Readings
from .relearn import CAP


def probes(c: Compared) -> list[Measurement]:
    """What the representation still knows; empty for tasks that show none."""
    task = c.request.forget.task
    if not hasattr(task, "features") or not hasattr(task, "labels"):
        return []
    try:
        found = [_class_means(c)]
    except InputError as error:  # a network without a linear layer shows no representation
        return [missing("representation probe, class means", unit="%", direction=NEAR, note=str(error))]
    ours = c.parts.gone if c.parts.gone is not None else c.request.forget
    if min(len(ours), len(c.parts.control)) < 8:
        return found

    def linear(model: Module) -> float:
        return linear_probe(model, ours, c.parts.control, rng=seeded(c.seed))

    sides = (
        "deleted against remaining classes"
        if c.parts.gone is not None
        else "forgotten against held-out examples"
    )
    found.append(
        measurement(
            "representation probe, linear AUC",
            linear(c.edited),
            linear(c.original),
            each(linear, c.oracles[: c.dear]),
            unit="",
            n=len(ours) + len(c.parts.control),
            direction=NEAR,
            note=sides,
        )
    )
    return found


def _class_means(c: Compared) -> Measurement:
    def probe(model: Module) -> tuple[float, int]:
        return class_mean_probe(model, c.request, c.parts)

    (value, n), (original, _) = probe(c.edited), probe(c.original)
    low, high = wilson(round(value * n), n)
    whose = "held-out examples of the deleted classes" if c.parts.gone is not None else "the forget set"
    return measurement(
        "representation probe, class means",
        100 * value,
        100 * original,
        each(lambda model: 100 * probe(model)[0], c.oracles[: 2 * c.dear]),
        unit="%",
        n=n,
        direction=NEAR + "; higher is more memory under the last layer",
        interval=(100 * low, 100 * high),
        note=f"share of {whose} nearest to their own class's mean, in the layer under the last",
    )


def hidden_position(c: Compared, edited: Readings | None) -> list[Measurement]:
    """Position of the margins under a last layer made anew; empty where there are none."""
    if edited is None or not np.isfinite(edited.hidden).all():
        return []
    holders, oracles = c.references.readings
    return [
        measurement(
            f"position under the {HEAD}",
            float(edited.hidden.mean()),
            float(holders.hidden[0]),
            oracles.hidden.tolist(),
            unit="",
            n=len(c.request.forget),
            direction="near 1; 0 is where models that hold the data lie",
            note="margins of the forget set under a ridge regression on the representation, example by example",
        )
    ]


def relearning(c: Compared, steps: float) -> Measurement:
    """Steps until the loss on the forget set is back at the original's, times 1.1."""
    _, oracles = c.references.relearning
    known = oracles[np.isfinite(oracles)]
    note = (
        "Adam steps until the loss on the forget set is back at the original's + 10 %, given up after "
        f"{CAP} (reached in none counts as {CAP})"
    )
    return measurement(
        RELEARN,
        steps,
        float(c.references.relearning[0][0]),
        known.tolist(),
        unit="steps",
        n=1,
        direction=NEAR + "; fewer steps are memory left behind",
        note=note + ("; not reached" if steps >= CAP else ""),
    )
