"""What an edit cost in memory: beyond what was in use, and in MiB."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from unweave.audit import cost
from unweave.audit.cost import memory_cost, peak_memory

LINUX = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="read on Linux only")


def test_memory_is_told_in_mib_or_said_to_be_unknown() -> None:
    known, unknown = memory_cost(3 * 2**20), memory_cost(None)
    assert (known.value, known.unit, known.note) == (3.0, "MiB", "beyond the model itself")
    assert (unknown.value, unknown.note) == (None, "read on Linux and on GPUs only")


@LINUX
def test_the_peak_is_over_what_was_in_use_before() -> None:
    held = torch.ones(2**24)  # 64 MiB before the block
    with peak_memory(torch.device("cpu")) as nothing:
        pass
    with peak_memory(torch.device("cpu")) as much:
        torch.ones(2**24)  # gone before the block ends
    assert float(held[0]) == 1
    assert nothing.bytes is not None
    assert nothing.bytes < 2**25
    assert much.bytes is not None
    assert 2**25 < much.bytes < 2**27


def test_where_nothing_can_be_read_nothing_is_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable(name: str) -> int:
        raise OSError(name)

    monkeypatch.setattr(cost, "_resident", unreadable)
    with peak_memory(torch.device("cpu")) as peak:
        pass
    assert peak.bytes is None
