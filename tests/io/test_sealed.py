"""What was deleted is told to the holder of the key only."""

from __future__ import annotations

import hashlib
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from unweave.errors import IntegrityError, StorageError
from unweave.io.sealed import key, seal, token, unseal


@pytest.mark.parametrize("n", [1, 7, 8, 9, 1000])
def test_positions_come_back_under_the_same_key(n: int) -> None:
    positions = torch.randperm(n, generator=torch.Generator().manual_seed(n))[: n // 2 + 1].sort().values
    text = seal(positions, n)
    found = unseal(text, n)
    assert found is not None
    assert found.tolist() == positions.tolist()
    assert seal(positions, n) != text  # two records of one set cannot be told to be so
    assert unseal(text, n + 8) is None


def test_another_key_or_a_changed_text_tells_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text, told = seal(torch.tensor([3]), 10), token(b"3")
    assert unseal(text[:-4] + ("AAAA" if text[-4:] != "AAAA" else "BBBB"), 10) is None
    assert unseal("no such text", 10) is None
    monkeypatch.setenv("UNWEAVE_KEY", str(tmp_path / "another"))
    assert unseal(text, 10) is None
    assert token(b"3") != told
    assert told not in {hashlib.sha256(b"3").hexdigest(), hashlib.sha256(key() + b"3").hexdigest()}


def test_a_key_is_made_once_for_this_user_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UNWEAVE_KEY")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    with ThreadPoolExecutor(8) as pool:
        made = {future.result() for future in [pool.submit(key) for _ in range(16)]}
    assert len(made) == 1
    file = tmp_path / "config" / "unweave" / "key"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert os.listdir(file.parent) == ["key"]
    file.write_bytes(b"short")
    with pytest.raises(IntegrityError, match="holds no key"):
        key()


def test_without_a_place_in_the_home_it_lies_in_the_cache_or_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("UNWEAVE_KEY")
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file"))
    monkeypatch.setenv("UNWEAVE_CACHE", str(tmp_path / "cache"))
    assert key() == (tmp_path / "cache" / "key").read_bytes()
    monkeypatch.setenv("UNWEAVE_CACHE", str(tmp_path / "file"))
    with pytest.raises(StorageError, match="Set UNWEAVE_KEY"):
        key()
