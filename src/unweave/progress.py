"""One progress display for all long work: bars with time left on a terminal, silence elsewhere."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

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


class Bar:
    """A handle to advance one bar; does nothing where there is no terminal."""

    def __init__(self, display: Progress | None, task: TaskID | None) -> None:
        self._display, self._task = display, task

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Move on by `steps`, showing `note` (a loss, say) beside the bar."""
        if self._display is not None and self._task is not None:
            self._display.update(self._task, advance=steps, note=note)


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
        yield Bar(None, None)
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
