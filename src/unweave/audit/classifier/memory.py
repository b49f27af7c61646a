"""Memory under the answers: what the representation still knows, and how soon the data are learned again."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import Module

from ...errors import InputError
from ...random import seeded
from ...statistics import prediction, wilson
from ...types import Measurement
from ..measured import measurement, missing
from ..result import Check
from .compared import NEAR, Compared
from .probe import class_mean_probe, linear_probe
from .relearn import mean_loss_of, relearn_steps

RELEARN = "relearn time"
# of the oracles, between original and oracles: half way is four of them off, where one in fifty lies
_SPREADS = 8


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
            [linear(model) for model in c.oracles[: c.dear]],
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
        [100 * probe(model)[0] for model in c.oracles[: 2 * c.dear]],
        unit="%",
        n=n,
        direction=NEAR + "; higher is more memory under the last layer",
        interval=(100 * low, 100 * high),
        note=f"share of {whose} nearest to their own class's mean, in the layer under the last",
    )


def relearning(c: Compared, slack: float = 0.1) -> Measurement:
    """Steps until the loss on the forget set is back at the original's, times 1 + `slack`."""
    most, orders, cap = (200, 1, 100) if c.quick else (500, 3, 300)
    forget = c.request.forget
    if len(forget) > most:
        forget = forget.subset(torch.randperm(len(forget), generator=seeded(c.seed))[:most])
    target = mean_loss_of(c.original, forget) * (1 + slack)

    def steps(model: Module) -> list[int]:
        return [relearn_steps(model, forget, target, rng=seeded(c.seed + i), cap=cap) for i in range(orders)]

    runs = steps(c.edited)
    low, high = prediction(np.array(runs, dtype=float)) if orders > 1 else (0.0, 0.0)
    note = (
        f"Adam steps until the loss on the forget set is back at the original's + {100 * slack:.0f} %, "
        f"at most {cap}"
    )
    if min(runs) >= cap:
        note += "; not reached"
    return measurement(
        RELEARN,
        float(np.mean(runs)),
        0.0,
        [float(np.mean(steps(model))) for model in c.oracles[: c.dear]],
        unit="steps",
        n=orders,
        direction=NEAR + "; fewer steps are memory left behind",
        interval=(max(0.0, low), min(float(cap), high)) if orders > 1 else None,
        note=note,
    )


def check_of(m: Measurement) -> Check:
    """Whether a figure under the answers lies nearer to the oracles' than to the original's.

    It has power where these lie eight of the oracles' standard deviations apart: half way is then four off, and
    one fresh oracle in fifty is there by chance where only four set them.
    """
    if m.value is None or m.original is None or m.oracle_mean is None or m.oracle_spread is None:
        return Check(name=m.name, half="memory", power=False, passed=None)
    gap = m.original - m.oracle_mean
    power = not abs(gap) < _SPREADS * m.oracle_spread + 1e-9
    kept = (m.value - m.oracle_mean) / gap if gap else 0.0
    return Check(
        name=m.name,
        half="memory",
        power=power,
        passed=kept < 0.5 if power else None,
        position=1 - kept if gap else None,
        accepted=(0.5, float("inf")),
    )


def remembers(m: Measurement) -> str:
    """What it means that a figure failed its check, in a sentence."""
    what = (
        "relearns the forget set much sooner than a retrained model"
        if m.name == RELEARN
        else "still holds the deleted data under its last layer"
    )
    return (
        f"The model {what} ({m.name}: {m.value:.3g} {m.unit}, original {m.original:.3g}, retrained "
        f"{m.oracle_mean:.3g} ± {m.oracle_spread:.2g}): its answers may have changed more than its memory."
    )
