"""What a model costs, before and after: weights, multiplications, bytes, time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles
from time import perf_counter
from typing import Any

from torch.nn import Module
from torch.utils.flop_counter import FlopCounterMode

from ..tasks import ability, evaluating
from ..types import Data

Figures = dict[str, tuple[float, float, str]]
"""Name -> (before, after, unit)."""

_ROUNDS, _MOST = 10, 50
_ENOUGH = 300.0  # milliseconds, after which no more rounds are taken


def on_disk(folder: Path) -> float:
    """MiB of the files of weights in a folder, masks included."""
    return (
        sum(p.stat().st_size for p in folder.rglob("*") if p.suffix in (".safetensors", ".bin", ".pt"))
        / 2**20
    )


@dataclass(frozen=True)
class Timed:
    """How long one batch takes.

    Attributes:
        median: milliseconds, of several runs.
        spread: between the quartiles of these, milliseconds.
    """

    median: float
    spread: float


def compared(before: Module, after: Module, heldout: Data[Any]) -> Figures:
    """Ability, weights, multiplications and time of two models.

    Args:
        before: the model as it was.
        after: what was made of it.
        heldout: asked for the ability; its first batch is timed.
    """
    name, was, unit = ability(before, heldout)
    slow, fast = times(before, after, heldout)
    return {
        f"held-out {name}": (was, ability(after, heldout)[1], unit),
        "non-zero weights": (alive(before), alive(after), ""),
        "multiplications an example": (macs(before, heldout), macs(after, heldout), ""),
        "time of one batch": (slow.median, fast.median, "ms"),
        "time of one batch, between quartiles": (slow.spread, fast.spread, "ms"),
    }


def alive(model: Module) -> float:
    """How many weights of a model are not zero, tied ones once."""
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


def times(before: Module, after: Module, data: Data[Any]) -> tuple[Timed, Timed]:
    """Time of the first batch through two models, run in turns, so that both see the same machine.

    Every other turn the second goes first: a machine that is shared takes its pauses at even distances.

    Args:
        before: a model.
        after: another.
        data: whose first batch is read.
    """
    batch = next(data.batches())
    taken: tuple[list[float], list[float]] = ([], [])
    both = list(zip((before, after), taken, strict=True))
    with evaluating(before), evaluating(after):
        turn, spent = 0, 0.0
        while turn <= _ROUNDS or (spent < _ENOUGH and turn <= _MOST):
            for model, kept in both if turn % 2 else reversed(both):
                began = perf_counter()
                data.task.outputs(model, batch)
                if turn:  # the first run warms up
                    kept.append(1000 * (perf_counter() - began))
                    spent += kept[-1]
            turn += 1
    return _timed(taken[0]), _timed(taken[1])


def _timed(taken: list[float]) -> Timed:
    low, middle, high = quantiles(taken, n=4)
    return Timed(middle, high - low)
