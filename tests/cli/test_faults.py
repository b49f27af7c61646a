"""A full disk, damaged weights, training that diverges: one line, exit 2, nothing half-written."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch

from tests.cli.projects import make_project
from tests.faults import contents, damages, disk_full_at, partials
from unweave.cli import main

REQUEST = (
    "forget",
    "project.py",
    "--model",
    "model.safetensors",
    "--random",
    "30",
    "--oracles",
    "0",
    "--holders",
    "0",
    "--method",
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    make_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNWEAVE_CACHE", str(tmp_path / "cache"))
    return tmp_path


def assert_one_line(capsys: pytest.CaptureFixture[str]) -> str:
    caught = capsys.readouterr()
    said = [
        line for line in caught.err.splitlines() if not line.startswith("warning: fine-tune does not suit")
    ]
    assert len(said) == 1, caught.err
    assert said[0].startswith("error: ")
    return said[0]


@pytest.mark.slow
def test_disk_full_at_one_write_or_another(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*REQUEST, "fine-tune", "--out", "first"]) == 3  # the cache notes the deletion once
    with disk_full_at(None) as counter:
        assert main([*REQUEST, "fine-tune", "--out", "whole"]) == 3
    expected = contents(folder / "whole" / "model")
    capsys.readouterr()
    assert counter.seen > 20
    for call in {*range(1, counter.seen, 3), counter.seen}:
        with disk_full_at(call):
            code = main([*REQUEST, "fine-tune", "--out", f"run{call}"])
        assert code == 2, call
        assert_one_line(capsys)
        assert not partials(folder)
        if call % 2 == 0:
            assert main([*REQUEST, "fine-tune", "--out", f"run{call}"]) == 3
            assert contents(folder / f"run{call}" / "model") == expected
            capsys.readouterr()


def test_damaged_weights_are_refused_and_nothing_is_written(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    for damage, data in damages(whole).items():
        (folder / "model.safetensors").write_bytes(data)
        before = contents(folder)
        assert main([*REQUEST, "fine-tune", "--out", "run"]) == 2, damage
        assert "model.safetensors" in assert_one_line(capsys)
        assert contents(folder) == before, damage
        assert not (folder / "run").exists(), damage


class _Canary:
    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("touch canary",)


def test_a_pickle_that_would_run_code_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "model.pt").write_bytes(pickle.dumps(_Canary()))
    assert main(["forget", "project.py", "--model", "model.pt", *REQUEST[4:], "fine-tune"]) == 2
    assert_one_line(capsys)
    assert not (folder / "canary").exists()


@pytest.mark.parametrize("content", [{"a": 1}, {"0.weight": torch.zeros(3)}, [1, 2]])
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_plain_pickle_is_called_one(
    folder: Path, capsys: pytest.CaptureFixture[str], content: object, protocol: int
) -> None:
    (folder / "model.pt").write_bytes(pickle.dumps(content, protocol=protocol))
    assert main(["forget", "project.py", "--model", "model.pt", *REQUEST[4:], "fine-tune"]) == 2
    told = assert_one_line(capsys)
    assert "plain pickle" in told or "would run torch" in told


@pytest.mark.parametrize("length", ["-3", "3.5", "None"])
def test_a_data_set_without_a_usable_length_is_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], length: str
) -> None:
    text = (folder / "project.py").read_text()
    (folder / "project.py").write_text(
        f"{text}\nclass Bad:\n    def __len__(self): return {length}\ntrain = Bad()\n"
    )
    assert main([*REQUEST, "fine-tune"]) == 2
    assert "length" in assert_one_line(capsys)


def test_a_training_that_diverges_stops_with_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*REQUEST, "fine-tune", "--fine-tune.lr", "1e30", "--out", "run"]) == 2
    assert "lr" in assert_one_line(capsys)
    assert not (folder / "run" / "model").exists()
