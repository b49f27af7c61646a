"""Memory that was freed, given back to the system: else a later stage's peak stands on an earlier one's."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

WORTH = 32 << 20
"""Bytes that must have been added since the last time: a collection looks at every object that any library made."""
_after = [0]  # resident bytes when it was last done


def give_back() -> None:
    """Return what is free to the system, where the C library can (glibc keeps freed blocks up to 32 MiB)."""
    now = resident()
    _after[0] = min(_after[0], now)
    if 0 < now < _after[0] + WORTH:
        return
    gc.collect()
    if (trim := _of_glibc("malloc_trim")) is not None:
        trim(0)
    _after[0] = resident()


@contextmanager
def own_pages() -> Iterator[None]:
    """Give every block of memory of 1 MiB or more that is asked for inside pages of its own, where the C library can.

    For an optimiser's first step, in which what stays, its state, and what goes at once lie side by side: glibc fits
    no new block into the holes of the latter, and they come to as much as the model. Afterwards blocks of up to 32 MiB
    are kept for the next, as glibc comes to do by itself: to ask the system for those of each step takes longer.
    """
    mallopt = _of_glibc("mallopt")
    if mallopt is None:
        yield
        return
    mallopt(_MMAP_THRESHOLD, 1 << 20)
    try:
        yield
    finally:
        mallopt(_MMAP_THRESHOLD, 32 << 20)
        mallopt(_TRIM_THRESHOLD, 64 << 20)


_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # as malloc.h has them


@cache
def _of_glibc(name: str) -> Callable[..., int] | None:
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None


def resident() -> int:
    """Bytes of memory that this process has now; 0 where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
