"""A seeded slice of benchmarks/fuzz_readers.py: no damaged file ends in a traceback or is read wrongly in silence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import fuzz_readers
from benchmarks.fuzz_readers import Reader, fuzz
from unweave.errors import InputError

NEEDS = {
    "ids.parquet": "pyarrow", "metadata.parquet": "pyarrow", "checkpoint.adapter": "peft", "pipeline": "diffusers",
    "images": "PIL", "images.jpg": "PIL", "metadata.csv": "PIL", "metadata.jsonl": "PIL", "transformers": "transformers",
    "processor": "transformers",
}  # fmt: skip
SLOW = {
    "pipeline": 25,
    "transformers": 60,
    "processor": 60,
    "checkpoint.adapter": 60,
    "images": 60,
    "images.jpg": 60,
}


def _rows() -> list[Any]:
    return [
        pytest.param(name, SLOW.get(name, 120), id=name, marks=[pytest.mark.slow] if name in SLOW else [])
        for name in fuzz_readers.readers()
    ]


@pytest.mark.parametrize(("name", "mutations"), _rows())
def test_damage_is_refused_or_harmless(name: str, mutations: int) -> None:
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    found = fuzz(name, mutations, seed=7)
    assert not found.faults
    assert sum(found.counts.values()) == mutations
    assert found.counts["refused"] > 0


def test_faults_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(folder: Path) -> Any:
        content = (folder / "a.json").read_bytes()
        if b"\n" not in content:
            raise KeyError("a bug")
        if len(content) > 40:
            raise InputError("two\nlines")
        return content

    row = Reader(
        lambda folder: (folder / "a.json").write_text('{"a": [1, 2]}\n') and None, careless, sealed=True
    )
    monkeypatch.setattr(fuzz_readers, "readers", lambda: {"careless": row})
    found = fuzz("careless", 100, seed=0)
    assert found.counts["traceback"] > 10
    assert found.counts["silent"] > 10
    assert any("KeyError: 'a bug'" in fault for fault in found.faults)
    assert any("several lines: 'two" in fault for fault in found.faults)
    assert fuzz("careless", 100, seed=0).counts == found.counts
