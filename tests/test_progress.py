"""Long work tells of itself where there is no terminal."""

from __future__ import annotations

import pytest

from unweave import progress as module
from unweave.progress import progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(module, "monotonic", lambda: now[0])
    monkeypatch.setattr(module, "_told", 0.0)
    monkeypatch.delenv("UNWEAVE_PROGRESS", raising=False)
    return now


def work(now: list[float], steps: int, seconds: float) -> None:
    with progress("draw", steps) as bar:
        for _ in range(steps):
            now[0] += seconds
            bar.advance(note="loss 1")


def test_a_line_now_and_then(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    work(clock, 10, 10.0)
    assert capsys.readouterr().err.splitlines() == [
        "draw: 3 of 10, 30 s loss 1", "draw: 6 of 10, 60 s loss 1", "draw: 9 of 10, 90 s loss 1",
    ]  # fmt: skip


def test_short_work_is_silent(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    work(clock, 10, 1.0)
    assert capsys.readouterr().err == ""


def test_silence_can_be_asked_for(
    clock: list[float], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNWEAVE_PROGRESS", "0")
    work(clock, 10, 10.0)
    assert capsys.readouterr().err == ""
