"""Memory that was freed, given back to the system: else a later stage's peak stands on an earlier one's."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
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
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
    _after[0] = resident()


def resident() -> int:
    """Bytes of memory that this process has now; 0 where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
