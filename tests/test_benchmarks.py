"""Every benchmark can be imported, and one that takes options says which."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import pytest

FILES = sorted(p for p in (Path(__file__).parent.parent / "benchmarks").glob("*.py") if p.stem != "__init__")


@pytest.mark.parametrize("name", [path.stem for path in FILES])
def test_can_be_imported(name: str) -> None:
    assert import_module(f"benchmarks.{name}").__doc__


@pytest.mark.parametrize("name", [path.stem for path in FILES if "ArgumentParser" in path.read_text()])
def test_says_its_options(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as ended:
        import_module(f"benchmarks.{name}").main()
    assert ended.value.code == 0
    assert "--" in capsys.readouterr().out
