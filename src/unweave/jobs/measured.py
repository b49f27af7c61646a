"""What a model costs, before and after: weights, multiplications, time."""

from __future__ import annotations

from statistics import median
from time import perf_counter
from typing import Any

from torch.nn import Module
from torch.utils.flop_counter import FlopCounterMode

from ..tasks import ability, evaluating
from ..types import Data

Figures = dict[str, tuple[float, float, str]]
"""Name -> (before, after, unit)."""


def compared(before: Module, after: Module, heldout: Data[Any]) -> Figures:
    """Ability, weights, multiplications and time of two models.

    Args:
        before: the model as it was.
        after: what was made of it.
        heldout: asked for the ability; its first batch is timed.
    """
    name, was, unit = ability(before, heldout)
    return {
        f"held-out {name}": (was, ability(after, heldout)[1], unit),
        "non-zero weights": (_alive(before), _alive(after), ""),
        "multiplications an example": (macs(before, heldout), macs(after, heldout), ""),
        "time of one batch": (latency(before, heldout), latency(after, heldout), "ms"),
    }


def _alive(model: Module) -> float:
    return float(sum(int((p != 0).sum()) for p in model.parameters()))


def weights(model: Module) -> float:
    """How many weights a model has, tied ones once."""
    return float(sum(p.numel() for p in model.parameters()))


def macs(model: Module, data: Data[Any]) -> float:
    """Multiply-adds of one example, counted by torch on a batch; those of zeros included."""
    batch = next(data.subset([0]).batches())
    with evaluating(model), FlopCounterMode(display=False) as counter:
        data.task.outputs(model, batch)
    return float(counter.get_total_flops()) / 2


def mebibytes(model: Module) -> float:
    """Size of a model's weights in the precision that they have."""
    return sum(p.numel() * p.element_size() for p in model.parameters()) / 2**20


def latency(model: Module, data: Data[Any]) -> float:
    """Median time of one batch in milliseconds, of seven."""
    batch = next(data.batches())
    times = []
    with evaluating(model):
        for _ in range(7):
            began = perf_counter()
            data.task.outputs(model, batch)
            times.append(1000 * (perf_counter() - began))
    return median(times)
