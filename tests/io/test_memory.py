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


SIZE = 16 << 20


def info() -> _Info:
    """What glibc tells of its memory."""
    told = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if sys.platform != "linux" or told is None:
        pytest.skip("only glibc tells")
    told.restype = _Info
    return told()


def mapped() -> int:
    """Bytes of blocks with pages of their own."""
    return int(info().hblkhd)


def block() -> torch.Tensor:
    return torch.empty(SIZE, dtype=torch.uint8)


def filled() -> list[torch.Tensor]:
    """Blocks that leave no hole into which one more would fit."""
    with own_pages():
        pass  # from now on blocks of this size lie together
    before, blocks = info().arena, [block()]
    while info().arena == before:
        blocks.append(block())
    return blocks


def test_blocks_lie_apart_inside_and_together_afterwards() -> None:
    filling = filled()
    before = mapped()
    with own_pages():
        kept = block()
        assert mapped() >= before + SIZE
        gone = block()
        del gone
        assert mapped() < before + 2 * SIZE  # given back at once, no hole
    inside = mapped()
    later = block()
    assert mapped() == inside
    del kept
    assert mapped() < inside
    assert later.numel() == len(filling[0]) == SIZE
