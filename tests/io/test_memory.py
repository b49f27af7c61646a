"""Memory that is asked for in pages of its own goes back at once, and lies apart from what stays."""

from __future__ import annotations

import ctypes
import sys

import pytest
import torch

from unweave.io.memory import own_pages


class _Info(ctypes.Structure):
    _fields_ = [  # noqa: RUF012
        (name, ctypes.c_size_t)
        for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()
    ]


def mapped() -> int:
    """Bytes of blocks with pages of their own."""
    info = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if sys.platform != "linux" or info is None:
        pytest.skip("only glibc tells")
    info.restype = _Info
    return int(info().hblkhd)


def test_blocks_lie_apart_inside_and_together_afterwards() -> None:
    before = mapped()
    with own_pages():
        kept = torch.empty(2 << 20, dtype=torch.uint8)
        assert mapped() >= before + kept.nbytes
        gone = torch.empty(2 << 20, dtype=torch.uint8)
        del gone
        assert mapped() < before + 2 * kept.nbytes  # given back at once, no hole
    inside = mapped()
    later = torch.empty(2 << 20, dtype=torch.uint8)
    assert mapped() == inside
    del kept
    assert mapped() < inside
    assert later.numel() == 2 << 20
