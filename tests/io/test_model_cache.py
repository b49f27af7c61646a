"""The folder of trained models: what it holds of deleted data, and that removing never touches what is in use."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from unweave.errors import StorageError
from unweave.io.model_cache import (
    Lineage,
    entries,
    entry_in_use,
    note_deletion,
    note_entry,
    remove,
)


def without(*positions: int, base: str = "b", size: int = 20) -> Lineage:
    return Lineage(base, size, torch.tensor(positions, dtype=torch.long))


def entry(cache: Path, name: str, lineage: Lineage | None, *, models: int = 2, unfinished: int = 0) -> Path:
    folder = cache / name
    for seed in range(models):
        (folder).mkdir(parents=True, exist_ok=True)
        (folder / f"{seed}.safetensors").write_bytes(b"w" * 100)
        (folder / f"{seed}.json").write_text("{}")
    for seed in range(models, models + unfinished):
        (folder / f"{seed}.unfinished").mkdir(parents=True)
        (folder / f"{seed}.unfinished" / "fit-0001.safetensors").write_bytes(b"c" * 50)
    note_entry(folder, "Recipe(epochs=3)", 20, lineage)
    return folder


def test_which_entries_hold_what_was_deleted(tmp_path: Path) -> None:
    made = {
        "whole": without(), "without-it": without(3, 5), "without-part": without(3), "without-more": without(3, 4, 5),
        "other-data": without(base="c"), "unknown": None,
    }  # fmt: skip
    for name, lineage in made.items():
        entry(tmp_path, name, lineage)
    assert not any(e.holds for e in entries(tmp_path))
    assert {e.folder.name for e in entries(tmp_path, without(3, 5)) if e.holds} == {"whole", "without-part"}
    note_deletion(tmp_path, "req-1", without(3, 5))
    note_deletion(tmp_path, "req-1", without(3, 5))
    note_deletion(tmp_path, "req-2", without(9))
    found = {e.folder.name: e for e in entries(tmp_path)}
    assert len(found) == len(made)  # the record of deletions is no entry
    assert set(found["whole"].holds) == set(found["without-part"].holds) == {"req-1", "req-2"}
    assert found["without-it"].holds == found["without-more"].holds == ("req-2",)
    assert found["other-data"].holds == found["unknown"].holds == ()
    assert [found[n].known for n in ("other-data", "unknown")] == [True, False]
    written = "".join(p.read_text() for p in tmp_path.rglob("*.json"))
    assert "[3, 5]" not in written


def test_an_entry_in_words_and_figures(tmp_path: Path) -> None:
    folder = entry(tmp_path, "one", without(), unfinished=1)
    os.utime(folder, (1, 1))
    (found,) = entries(tmp_path)
    assert (found.recipe, found.examples, found.models, found.unfinished) == (
        "Recipe(epochs=3)",
        20,
        (0, 1),
        (2,),
    )
    assert found.size == sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    for file in folder.rglob("*"):
        os.utime(file, (1000, 1000))
    assert entries(tmp_path)[0].used == 1000
    note_entry(folder, "Recipe(epochs=3)", 20, without())  # used again
    assert entries(tmp_path)[0].used > 1000


def test_removing_frees_all_of_an_entry_or_its_unfinished_part(tmp_path: Path) -> None:
    folder = entry(tmp_path, "one", without(), unfinished=2)
    (found,) = entries(tmp_path)
    assert remove(found, unfinished_only=True) == (100, [])
    (found,) = entries(tmp_path)
    assert (found.models, found.unfinished) == ((0, 1), ())
    assert remove(found)[0] == 2 * 102
    assert not folder.exists()
    assert entries(tmp_path) == []


HOLDER = """
import sys, time
from pathlib import Path
from unweave.io.model_cache import entry_in_use
with entry_in_use(Path(sys.argv[1]), 1):
    print("held", flush=True)
    time.sleep(60)
"""


def test_what_a_living_process_holds_stays_and_a_killed_one_holds_nothing(tmp_path: Path) -> None:
    folder = entry(tmp_path, "one", without())
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with entry_in_use(folder, 1, wait=False) as mine:
        assert not mine
    assert remove(entries(tmp_path)[0])[1] == [1]
    assert sorted(p.name for p in folder.iterdir()) == [
        "1.json",
        "1.lock",
        "1.safetensors",
        "about.json",
    ]
    holder.kill()
    holder.wait()
    holder.stdout.close()
    assert remove(entries(tmp_path)[0])[1] == []
    assert not folder.exists()


def test_who_waits_for_a_model_that_is_removed_meanwhile_gets_a_lock_that_counts(tmp_path: Path) -> None:
    folder = entry(tmp_path, "one", without(), models=1)
    code = HOLDER.replace(", 1)", ", 0)")
    with entry_in_use(folder, 0):
        waiting = subprocess.Popen(
            [sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True
        )
        time.sleep(2.5)
        (folder / "0.lock").unlink()
    assert waiting.stdout is not None
    assert waiting.stdout.readline() == "held\n"
    with entry_in_use(folder, 0, wait=False) as mine:
        assert not mine
    waiting.kill()
    waiting.wait()
    waiting.stdout.close()


def test_damaged_records_are_not_known_and_no_traceback(tmp_path: Path) -> None:
    folder = entry(tmp_path, "one", without())
    note_deletion(tmp_path, "req", without(1))
    for text in ("", "[]", "[" * 100_000, '{"base": 3}', '{"base": "b", "size": 20, "without": "x"}'):
        (folder / "about.json").write_text(text)
        assert [(e.holds, e.known) for e in entries(tmp_path)] == [((), False)], text[:50]
        next((tmp_path / "deleted").iterdir()).write_text(text)
    assert entries(tmp_path / "absent") == []


def test_a_folder_that_cannot_be_written_is_named_with_the_cure(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(StorageError, match="--cache FOLDER, or UNWEAVE_CACHE"),
        entry_in_use(tmp_path / "file", 0),
    ):
        pass
