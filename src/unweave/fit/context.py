"""What a block of code can ask of every training in it: be resumable, recorded, heard, or only timed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from time import monotonic
from typing import Any, TypeVar

A = TypeVar("A")
B = TypeVar("B")


@dataclass
class Estimate:
    """Time that trainings in an `estimating` block would still have taken.

    Attributes:
        seconds: not spent, because each training was cut short after a few steps.
        least: seconds of steps to time before a training is cut short.
    """

    seconds: float = 0.0
    least: float = 0.05
    _stamps: list[float] = field(default_factory=list, repr=False)

    def enough(self, step: int, total: int) -> bool:
        """Note the end of a step; True once the rest can be told from the steps so far."""
        if step == 1:
            self._stamps = []
        self._stamps.append(monotonic())
        spent = self._stamps[-1] - self._stamps[0]
        if step < 5 or spent < self.least or step == total:
            return False
        self.seconds += _usual(self._stamps) * (total - step)
        return True

    def few(self, batches: Iterable[A], total: int) -> Iterator[A]:
        """The first few of `total` batches; what reading the others would have taken is added once they are read."""
        stamps: list[float] = []
        for step, batch in enumerate(batches, 1):
            yield batch
            stamps.append(monotonic())
            if step >= 4 and step < total and stamps[-1] - stamps[0] >= self.least / 4:
                self.seconds += _usual(stamps) * (total - step)
                return


def _usual(stamps: Sequence[float]) -> float:
    """Time of a usual step: the median, since the first ones also warm up."""
    return float(median(b - a for a, b in pairwise(stamps)))


current_estimate: ContextVar[Estimate | None] = ContextVar("estimate", default=None)


@contextmanager
def estimating() -> Iterator[Estimate]:
    """Cut every `fit_` in the block short after a few steps and add up the time that it would still have taken.

    What else runs in the block runs in full, so its own time plus `Estimate.seconds` is the time of the whole.
    """
    estimate = Estimate()
    token = current_estimate.set(estimate)
    try:
        yield estimate
    finally:
        current_estimate.reset(token)


def timed() -> bool:
    """Whether an `estimating` block is around, so that only time is asked for."""
    return current_estimate.get() is not None


def each(work: Callable[[A], B], items: Sequence[A]) -> list[B]:
    """`work` on every item; in an `estimating` block on the first alone, which stands for the others in time, too."""
    estimate = current_estimate.get()
    if estimate is None or len(items) < 2:
        return [work(item) for item in items]
    began, before = monotonic(), estimate.seconds
    first = work(items[0])
    estimate.seconds += (monotonic() - began + estimate.seconds - before) * (len(items) - 1)
    return [first] * len(items)


def few(items: Sequence[A]) -> Iterator[A]:
    """Every item; in an `estimating` block the first few, which stand for the others in time, too."""
    estimate = current_estimate.get()
    return iter(items) if estimate is None else estimate.few(items, len(items))


_folder: ContextVar[tuple[Path, list[int]] | None] = ContextVar("checkpoint folder", default=None)


@contextmanager
def resumable(folder: Path) -> Iterator[None]:
    """Give every `fit_` in the block, in order, a checkpoint of its own in `folder`.

    Run the same block again after a kill and it goes on from the last checkpoint to the same bits: finished
    trainings are loaded, not repeated.
    """
    folder.mkdir(parents=True, exist_ok=True)
    token = _folder.set((folder, [0]))
    try:
        yield
    finally:
        _folder.reset(token)


def next_checkpoint() -> Path | None:
    """The file for the next training of a `resumable` block; None outside one."""
    ambient = _folder.get()
    if ambient is None:
        return None
    folder, counter = ambient
    counter[0] += 1
    return folder / f"fit-{counter[0]:04d}.safetensors"


Heard = Callable[[str, int, float], None]
"""Label of a training, step from 1, loss."""
_heard: ContextVar[Heard | None] = ContextVar("heard", default=None)


@contextmanager
def heard_by(listener: Heard) -> Iterator[None]:
    """Tell `listener` the loss at every step of every `fit_` in the block that runs in this process."""
    token = _heard.set(listener)
    try:
        yield
    finally:
        _heard.reset(token)


def tell(label: str, step: int, loss: float) -> None:
    """Tell the `heard_by` block around, if there is one, the loss at a step."""
    listener = _heard.get()
    if listener is not None:
        listener(label, step, loss)


_records: ContextVar[list[Any] | None] = ContextVar("records", default=None)


@contextmanager
def recording() -> Iterator[list[Any]]:
    """Collect what every `fit_` in the block returns (`Fit`), in the order in which they end."""
    records: list[Any] = []
    token = _records.set(records)
    try:
        yield records
    finally:
        _records.reset(token)


def record(fit: Any) -> None:
    """Tell the `recording` block around, if there is one, what a training did."""
    records = _records.get()
    if records is not None:
        records.append(fit)
