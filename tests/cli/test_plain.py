"""A terminal or pipe that takes ASCII only gets every command's output, in signs that it has."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from tests.cli.projects import make_project, unweave
from unweave.cli import COMMANDS, main
from unweave.cli._plain import make_printable, spelled, write_json

ASCII = {"PYTHONIOENCODING": "ascii:strict", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def narrow(monkeypatch: pytest.MonkeyPatch, encoding: str = "ascii") -> io.BytesIO:
    raw = io.BytesIO()
    monkeypatch.setattr(
        sys, "stdout", io.TextIOWrapper(raw, encoding=encoding, errors="strict", write_through=True)
    )
    return raw


@pytest.mark.parametrize("command", [(), *((name, "--help") for name in COMMANDS), ("list",), ("doctor",)])
def test_every_command_prints(command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    raw = narrow(monkeypatch)
    assert main(command) in (0, 2)
    assert len(raw.getvalue().decode("ascii")) > 100


def test_signs_have_stand_ins_and_letters_lose_their_accents() -> None:
    assert spelled("✓ ✕ – − ± → …") == "v x - - +/- -> ..."
    assert spelled("ärgerlich 猫 ╭─╮") == "argerlich ? +-+"


@pytest.mark.parametrize(("encoding", "expected"), [("ascii", "v e"), ("latin-1", "v é"), ("utf-8", "✓ é")])
def test_what_can_be_printed_stays(monkeypatch: pytest.MonkeyPatch, encoding: str, expected: str) -> None:
    raw = narrow(monkeypatch, encoding)
    make_printable()
    print("✓ é", end="")  # noqa: T201
    assert raw.getvalue().decode(encoding) == expected


def test_json_keeps_every_letter(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = narrow(monkeypatch)
    make_printable()
    write_json('{"name": "Zoë – 猫 😀"}\n')
    assert json.loads(raw.getvalue().decode("ascii")) == {"name": "Zoë – 猫 😀"}


@pytest.mark.slow
def test_a_whole_run_is_printed_in_ascii(tmp_path: Path) -> None:
    make_project(tmp_path)
    asked = (
        "forget",
        "project.py",
        "--random",
        "30",
        "--method",
        "fine-tune",
        "--oracles",
        "0",
        "--holders",
        "0",
        "--quick",
    )
    done = unweave(*asked, "--out", "run", cwd=tmp_path, **ASCII)
    assert done.returncode == 3, done.stderr
    assert done.stdout.isascii()
    assert "Inconclusive" in done.stdout
    for more in ((), ("--json",)):
        shown = unweave("show", "run", *more, cwd=tmp_path, **ASCII)
        assert shown.returncode == 0, shown.stderr
        assert shown.stdout.isascii()
    json.loads(shown.stdout)
