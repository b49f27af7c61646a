from __future__ import annotations

import hmac
import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from unweave import Data
from unweave.embedded.digits import of_tensors
from unweave.errors import InputError, IntegrityError, StorageError
from unweave.io.content import UnstableError, digest_of
from unweave.io.identities import fingerprints, identities, key_file, named, read_key, require_key
from unweave.tasks import Classify


def data(n: int = 5) -> Data[Any]:
    x = torch.arange(2.0 * n).reshape(n, 2)
    return of_tensors(x, torch.arange(n) % 2, classes=2)


def test_ids_as_text_whatever_their_type() -> None:
    for ids in ([1, 2, 3, 4, 5], np.arange(1, 6), torch.arange(1, 6), ("1", "2", "3", "4", "5")):
        assert identities(data(), ids) == ("id", [b"1", b"2", b"3", b"4", b"5"])


def test_content_where_there_is_no_id_whatever_the_position() -> None:
    by, known = identities(data())
    assert by == "content"
    assert len(set(known)) == 5
    turned = data().subset(torch.tensor([4, 2, 0]))
    assert identities(turned)[1] == [known[4], known[2], known[0]]
    examples = data()
    examples.examples.tensors[1][3] = 1 - examples.examples.tensors[1][3]  # type: ignore[attr-defined]
    assert [a == b for a, b in zip(identities(examples)[1], known, strict=True)] == [
        True,
        True,
        True,
        False,
        True,
    ]


class Noisy(Dataset[Any]):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        return torch.rand(2), i % 2


def test_content_that_changes_is_refused() -> None:
    noisy = Data(Noisy(), Classify(classes=2))
    with pytest.raises(
        UnstableError, match="is another each time it is read.*Give the data set an attribute `ids`"
    ):
        identities(noisy)
    assert identities(noisy, [1, 2, 3, 4])[0] == "id"


def test_digest_of_nested_examples() -> None:
    one = {"b": torch.ones(2), "a": [np.ones(2), "x", 3]}
    assert digest_of(one) == digest_of(dict(reversed(one.items())))
    for other in (
        {**one, "b": torch.ones(2, dtype=torch.float64)}, {**one, "b": torch.ones(1, 2)},
        {**one, "a": [np.ones(2), "y", 3]}, {**one, "a": [np.ones(2, dtype=np.float32), "x", 3]},
        {"c": one["b"], "a": one["a"]},
    ):  # fmt: skip
        assert digest_of(other) != digest_of(one)


def test_fingerprints_are_keyed() -> None:
    assert fingerprints([b"a"], b"k") == [hmac.new(b"k", b"a", "sha256").digest()[:16]]
    assert fingerprints([b"a"], b"k") != fingerprints([b"a"], b"l")
    assert named(b"k") != named(b"l")
    assert b"k" * 32 not in bytes.fromhex(named(b"k" * 32))


def _read(file: Path, found: Any) -> None:
    found.put(read_key(file))


def test_a_key_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "key"
    context = multiprocessing.get_context("fork")
    found = context.Queue()
    at_once = [context.Process(target=_read, args=(file, found)) for _ in range(6)]
    for process in at_once:
        process.start()
    keys = {found.get(timeout=60) for _ in at_once}
    for process in at_once:
        process.join()
    assert keys == {file.read_bytes()}
    assert len(file.read_bytes()) == 32
    assert file.stat().st_mode & 0o077 == 0
    assert [p.name for p in file.parent.iterdir()] == ["key"]


def test_where_the_key_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNWEAVE_KEY", str(tmp_path / "mine"))
    assert key_file() == tmp_path / "mine"
    monkeypatch.delenv("UNWEAVE_KEY")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert key_file() == tmp_path / "unweave" / "deletions.key"


def test_no_key(tmp_path: Path) -> None:
    (tmp_path / "short").write_bytes(b"x")
    with pytest.raises(IntegrityError, match="holds 1 bytes, but a key has 32"):
        read_key(tmp_path / "short")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="UNWEAVE_KEY"):
        read_key(tmp_path / "file" / "key")
    with pytest.raises(InputError, match="under the key abc, and the key here is"):
        require_key("abc", b"x" * 32, "the model")
