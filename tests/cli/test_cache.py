"""`unweave cache`: what lies there, in words and sizes, and removing it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.io.test_model_cache import entry, without
from unweave.cli import main
from unweave.io.model_cache import entry_in_use, note_deletion


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNWEAVE_CACHE", str(tmp_path))
    folder = tmp_path / "models"
    entry(folder, "whole", without())
    entry(folder, "part", without(3), unfinished=1)
    note_deletion(folder, "request-7", without(3))
    return folder


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["cache", *arguments])
    caught = capsys.readouterr()
    return code, caught.out, caught.err


def test_lists_each_entry_with_what_it_holds(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys)
    assert code == 0
    rows = {line.split()[0]: line for line in out.splitlines()}
    assert "request-7" in rows["whole"]
    assert "request-7" not in rows["part"]
    assert "2 + 1 unfinished" in rows["part"]
    assert "bytes" in rows["whole"]
    assert "2 entries, " in out
    assert str(cache) in out
    told = json.loads(call(capsys, "list", "--json")[1])
    assert [e["holds"] for e in told["entries"] if e["folder"].endswith("whole")] == [["request-7"]]
    assert told["bytes"] == sum(e["size"] for e in told["entries"])


def test_prunes_what_holds_deleted_data_and_says_how_much(
    cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = call(capsys, "prune", "--holding-deleted", "--dry-run")
    assert code == 0
    assert "would remove whole: 204 bytes" in out
    assert (cache / "whole" / "0.safetensors").exists()
    assert call(capsys, "prune", "--holding-deleted")[1].splitlines() == [
        "removed whole: 204 bytes",
        "Freed 204 bytes.",
    ]
    assert not (cache / "whole").exists()
    assert (cache / "part" / "0.safetensors").exists()


def test_prunes_the_unfinished_the_old_and_all(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "Freed 50 bytes" in call(capsys, "prune", "--unfinished")[1]
    assert call(capsys, "prune", "--older-than", "1h")[1] == "Freed 0 bytes.\n"
    for file in (cache / "part").rglob("*"):
        os.utime(file, (1000, 1000))
    assert "removed part" in call(capsys, "prune", "--older-than", "52w")[1]
    assert "removed whole" in call(capsys, "prune", "--all")[1]
    assert "0 entries, 0 bytes" in call(capsys)[1]


def test_what_is_in_use_is_kept_and_said(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with entry_in_use(cache / "whole", 0):
        code, out, _ = call(capsys, "prune", "--all")
        assert code == 3
        assert "removed whole: 102 bytes; kept 1 that another process is using" in out
        assert (cache / "whole" / "0.safetensors").exists()
        told = json.loads(call(capsys, "prune", "--all", "--json")[1])
        assert [r["in_use"] for r in told["removed"]] == [[0]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("prune",), "nothing to prune was named"),
        (("list", "--all"), "list` removes nothing"),
        (("prune", "--older-than", "soon"), "such as 12h, 30d or 8w; got 'soon'"),
    ],
)
def test_wrong_use_is_one_line(
    cache: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    code, _, err = call(capsys, *arguments)
    assert code == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1
