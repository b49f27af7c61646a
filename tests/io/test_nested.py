"""Nested state on disk: every dtype to the same bits, and a flipped bit anywhere is noticed."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.faults import one_line
from unweave.errors import IntegrityError
from unweave.io.nested import load_nested, save_nested

DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2, torch.complex64,
    torch.complex128, torch.int64, torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.bool,
]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (3,), (0,), (2, 3)], ids=str)
def test_every_dtype_comes_back(tmp_path: Path, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    given = (torch.randn(shape) * 3).abs().to(dtype)
    if dtype.is_complex:
        given = (given * 1j + 1).conj()
    save_nested({"a": given, "again": [given, 1.5, None, "x"], 3: (True, float("inf"))}, tmp_path / "s")
    found = load_nested(tmp_path / "s")
    for tensor in (found["a"], found["again"][0]):
        assert (tensor.dtype, tensor.shape) == (given.dtype, given.shape)
        assert torch.equal(tensor.to(torch.complex128), given.to(torch.complex128))
    assert found["again"][1:] == [1.5, None, "x"]
    assert found[3] == (True, float("inf"))


def test_a_flipped_bit_anywhere_and_any_cut_is_refused(tmp_path: Path) -> None:
    state: dict[str, Any] = {"weights": torch.randn(40), "step": 3, "rng": torch.get_rng_state()[:50]}
    save_nested(state, tmp_path / "s")
    whole = (tmp_path / "s").read_bytes()
    draw = random.Random(0)
    for _ in range(200):
        flipped = bytearray(whole)
        flipped[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        (tmp_path / "s").write_bytes(flipped)
        with pytest.raises(IntegrityError, match="Remove it to start afresh"):
            load_nested(tmp_path / "s")
    for cut in range(0, len(whole), 37):
        (tmp_path / "s").write_bytes(whole[:cut])
        with pytest.raises(IntegrityError) as caught:
            load_nested(tmp_path / "s")
        one_line(caught.value)
