"""Files written whole or not at all, alone and together, and hashes that tell folders apart."""

from __future__ import annotations

import hashlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from unweave.errors import StorageError
from unweave.io.files import (
    folder_written_beside,
    sha256,
    sha256_of,
    strict_json,
    sweep_dead_partials,
    sweep_partials,
    write_text,
    written_together,
)


def names(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_a_folder_is_hashed_by_its_names_and_contents_without_writes_under_way(tmp_path: Path) -> None:
    write_text(tmp_path / "b.txt", "two")
    write_text(tmp_path / "a" / "c.txt", "one")
    lines = "".join(f"{name}\0{sha256(tmp_path / name)}\n" for name in ("a/c.txt", "b.txt"))
    before = sha256_of(tmp_path)
    assert before == hashlib.sha256(lines.encode()).hexdigest()
    assert sha256_of(tmp_path / "b.txt") == hashlib.sha256(b"two").hexdigest()
    (tmp_path / "a" / ".c.txt.7.partial").write_text("half")
    assert sha256_of(tmp_path) == before
    (tmp_path / "b.txt").rename(tmp_path / "d.txt")
    assert sha256_of(tmp_path) != before


def failing_at(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let renaming to a file of this name fail once."""
    real, failed = os.replace, []

    def replace(source: Any, target: Any) -> None:
        if Path(target).name == name and not failed:
            failed.append(target)
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)


def write_three(folder: Path, gone: tuple[Path, ...] = ()) -> None:
    with written_together(*(folder / name for name in ("x", "y", "z")), gone=gone) as besides:
        for beside in besides:
            beside.write_text("new")


@pytest.mark.parametrize("at", ["x", "y", "z"])
def test_files_that_belong_together_are_replaced_all_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    for name in ("x", "z", "out"):  # y is new
        write_text(tmp_path / name, "old")
    failing_at(at, monkeypatch)
    with pytest.raises(StorageError, match="x could not be written \\(No space left on device\\)"):
        write_three(tmp_path, gone=(tmp_path / "out",))
    assert names(tmp_path) == ["out", "x", "z"]
    assert {(tmp_path / name).read_text() for name in names(tmp_path)} == {"old"}
    write_three(tmp_path, gone=(tmp_path / "out",))
    assert names(tmp_path) == ["x", "y", "z"]
    assert {(tmp_path / name).read_text() for name in names(tmp_path)} == {"new"}


def test_one_of_several_left_unwritten_keeps_the_old_ones(tmp_path: Path) -> None:
    write_text(tmp_path / "x", "old")
    with pytest.raises(StorageError), written_together(tmp_path / "x", tmp_path / "y") as (first, _):
        first.write_text("new")
    assert names(tmp_path) == ["x"]
    assert (tmp_path / "x").read_text() == "old"


def test_a_folder_comes_back_if_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_text(tmp_path / "model" / "weights", "old")
    failing_at("model", monkeypatch)

    def write() -> None:
        with folder_written_beside(tmp_path / "model") as beside:
            (beside / "other").write_text("new")

    with pytest.raises(StorageError, match="model could not be written"):
        write()
    assert names(tmp_path) == ["model/weights"]
    write()
    assert names(tmp_path) == ["model/other"]


def test_only_what_a_dead_process_left_of_this_file_is_swept(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-S", "-c", ""])
    gone.wait()
    for name in ("a.bin", "b.bin"):
        for process in (gone.pid, os.getppid()):
            (tmp_path / f".{name}.{process}.partial").touch()
            (tmp_path / f".{name}.{process}.former.partial").touch()
    (tmp_path / ".a.bin.copy.partial").touch()
    sweep_dead_partials(tmp_path, "a.")
    here = os.getppid()
    left = [f".a.bin.{here}.former.partial", f".a.bin.{here}.partial", ".a.bin.copy.partial"]
    left += [f".b.bin.{p}{tag}.partial" for p in (gone.pid, here) for tag in ("", ".former")]
    assert names(tmp_path) == sorted(left)


def test_all_partials_of_a_folder_of_ones_own_are_swept_and_told(tmp_path: Path) -> None:
    write_text(tmp_path / "sub" / "kept.partial", "by the user, who hides nothing")
    (tmp_path / "sub" / ".a.1.partial").touch()
    write_text(tmp_path / ".folder.1.partial" / "inner", "x")
    assert sweep_partials(tmp_path) == [tmp_path / ".folder.1.partial", tmp_path / "sub" / ".a.1.partial"]
    assert names(tmp_path) == ["sub/kept.partial"]


def test_strict_json_has_no_numbers_that_json_has_not() -> None:
    text = strict_json({"a": [math.nan, (1, -math.inf)], "b": {"c": math.inf}, "d": "é", "e": True})
    assert json.loads(text) == {"a": [None, [1, None]], "b": {"c": None}, "d": "é", "e": True}
    assert "é" in text
    assert text.endswith("}\n")
