"""No test leaves anything in the home of who runs it: the key that seals what was deleted lies apart."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import pytest

if "UNWEAVE_KEY" not in os.environ:
    _room = Path(tempfile.mkdtemp(prefix="unweave-tests-"))
    atexit.register(shutil.rmtree, _room, ignore_errors=True)
    (_room / "key").write_bytes(os.urandom(32))
    os.environ["UNWEAVE_KEY"] = str(_room / "key")

# Tests run one a core already: threads beside them wait for one another, and a worker costs an import of torch.
# A test that needs either asks for it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("LOKY_MAX_CPU_COUNT", "1")

SLOW = Path(__file__).with_name("slow.txt")
"""Tests that took more than a fifth of a second when all were last measured; `python -m tests.durations` writes it."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark these as slow, beside those that are marked where they stand."""
    slow = set(SLOW.read_text(encoding="utf-8").splitlines())
    for item in items:
        sweep = item.path.name == "test_zoo.py"  # every method over every model: short each, long together
        if (sweep or item.nodeid in slow) and item.get_closest_marker("slow") is None:
            item.add_marker("slow")
