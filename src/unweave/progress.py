"""One progress display for all long work: bars with time left on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_live: Progress | None = None  # rich allows one live display; nested work adds bars to it


SECONDS = 30.0
"""Between the lines that tell how far long work is, where there is no terminal."""
_told = 0.0


class Bar:
    """A handle to advance one bar; where there is no terminal, it writes a line now and then."""

    def __init__(
        self, display: Progress | None, task: TaskID | None, label: str = "", total: int = 0, done: int = 0
    ) -> None:
        self._display, self._task = display, task
        self._label, self._total, self._done = label, total, done
        self._began = monotonic()

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Move on by `steps`, showing `note` (a loss, say) beside the bar."""
        if self._display is not None and self._task is not None:
            self._display.update(self._task, advance=steps, note=note)
        elif self._label:
            self._done += steps
            self._tell(note)

    def _tell(self, note: str) -> None:
        global _told
        now = monotonic()
        if now - max(self._began, _told) < SECONDS or os.environ.get("UNWEAVE_PROGRESS", "1") == "0":
            return
        _told = now
        line = f"{self._label}: {self._done} of {self._total}, {now - self._began:.0f} s {note}".rstrip()
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()


def shown() -> bool:
    """Whether bars are drawn: standard error is a terminal and UNWEAVE_PROGRESS is not 0."""
    return sys.stderr.isatty() and os.environ.get("UNWEAVE_PROGRESS", "1") != "0"


@contextmanager
def progress(label: str, total: int, done: int = 0) -> Iterator[Bar]:
    """Show one bar while the block runs.

    Args:
        label: what is being done, in a few words.
        total: steps in all.
        done: steps that were already done, when resuming.
    """
    global _live
    if not shown() or not label:
        yield Bar(None, None, label, total, done)
        return
    outermost = _live is None
    if _live is None:
        _live = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
            console=Console(stderr=True), transient=True,
        )  # fmt: skip
        _live.start()
    display = _live
    task = display.add_task(label, total=total, completed=done, note="")
    try:
        yield Bar(display, task)
    finally:
        display.remove_task(task)
        if outermost:
            display.stop()
            _live = None
