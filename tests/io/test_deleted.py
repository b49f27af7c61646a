from __future__ import annotations

import json
from pathlib import Path

import pytest

from unweave.errors import InputError, IntegrityError
from unweave.io.deleted import RECORD, Deleted, find, read_deleted
from unweave.io.identities import By, fingerprints, named

KEY = b"k" * 32
PRINTS = fingerprints([str(i).encode() for i in range(20)], KEY)


def record(by: By = "id", kept: int = 10) -> Deleted:
    gone = tuple(sorted(PRINTS[:3]))
    return Deleted(key=named(KEY), by=by, requests=2, gone=gone, kept=tuple(PRINTS[10 : 10 + kept]))


def test_it_comes_back_beside_the_weights_and_from_the_folder(tmp_path: Path) -> None:
    record().write(tmp_path)
    assert read_deleted(tmp_path) == record()
    assert read_deleted(tmp_path / "model.safetensors") == record()
    assert read_deleted(tmp_path / "elsewhere" / "model.safetensors") is None


def test_where_the_deleted_are(tmp_path: Path) -> None:
    assert find(record(), "id", PRINTS, KEY, "m") == [0, 1, 2]
    assert find(record(), "id", PRINTS[:1:-1], KEY, "m") == [17]  # rows removed and turned round
    assert find(record(), "id", PRINTS[5:], KEY, "m") == []
    assert find(record(kept=0), "id", PRINTS[5:], KEY, "m") == []


def test_what_cannot_be_told_is_refused() -> None:
    with pytest.raises(InputError, match="UNWEAVE_KEY"):
        find(record(), "id", PRINTS, b"l" * 32, "m")
    with pytest.raises(InputError, match="by their ids, but the data set now gives them no ids"):
        find(record(), "content", PRINTS, KEY, "m")
    with pytest.raises(InputError, match="by their content, but the data set now gives them ids"):
        find(record("content"), "id", PRINTS, KEY, "m")
    # five of ten witnesses are enough, four are not
    assert find(record(), "id", PRINTS[:15], KEY, "m") == [0, 1, 2]
    with pytest.raises(
        InputError, match="m knows 10 examples that were kept, and most of them are not in this data"
    ):
        find(record(), "id", PRINTS[:14], KEY, "m")


def test_damage_is_told(tmp_path: Path) -> None:
    record().write(tmp_path)
    file = tmp_path / RECORD
    good = json.loads(file.read_text())
    for text in (
        "", "{", "[]", "null", "{}", "[" * 5000, json.dumps({**good, "gone": ""}), json.dumps({**good, "requests": 3}),
        json.dumps({k: v for k, v in good.items() if k != "sha256"}),
    ):  # fmt: skip
        file.write_text(text)
        with pytest.raises(IntegrityError, match="which says what was deleted from the model, is damaged"):
            read_deleted(tmp_path)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(IntegrityError, match="is damaged"):
        read_deleted(tmp_path)


def test_it_names_nobody(tmp_path: Path) -> None:
    record().write(tmp_path)
    told = (tmp_path / RECORD).read_bytes()
    for i in range(20):
        assert fingerprints([str(i).encode()], b"")[0] not in told
    assert KEY not in told
