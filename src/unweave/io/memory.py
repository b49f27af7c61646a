"""Memory that was freed, given back to the system: else a later stage's peak stands on an earlier one's."""

from __future__ import annotations

import ctypes
import gc
import sys


def give_back() -> None:
    """Return what is free to the system, where the C library can (glibc keeps freed blocks up to 32 MiB)."""
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
