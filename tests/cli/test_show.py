"""`unweave show`: verified before it is printed, and a run that is not finished is told how to go on."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.faults import one_line
from tests.jobs.subjects import subject
from unweave.cli import main
from unweave.io.run_record import _checksum
from unweave.jobs import ForgetJob, PruneJob, TrainJob
from unweave.prune import Global, Prune
from unweave.unlearn import FineTune

pytestmark = pytest.mark.filterwarnings("ignore::unweave.jobs.UnsuitedWarning")


def forget(out: Path) -> None:
    ForgetJob(
        subject=subject(),
        where="owner=3",
        edits={"mine": FineTune(epochs=1)},
        oracles=0,
        holders=0,
        quick=True,
    ).run(out, command=["unweave", "forget", "project.py", "--where", "owner=VALUE", "--out", "my run"])


JOBS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "forget": (forget, "audit.json"),
    "prune": (
        lambda out: PruneJob(subject=subject(), method=Prune(budget=Global(0.5))).run(out),
        "prune.json",
    ),
    "train": (lambda out: TrainJob(subject=subject()).run(out), "train.json"),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A finished run of each job, made when it is first asked for."""
    at = tmp_path_factory.mktemp("made")

    def run_of(job: str) -> Path:
        if not (at / job).exists():
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("UNWEAVE_CACHE", str(at / "cache"))
                JOBS[job][0](at / job)
        return at / job

    return run_of


@pytest.fixture(params=JOBS)
def run(
    request: pytest.FixtureRequest,
    made: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[Path, str]:
    monkeypatch.setenv("UNWEAVE_CACHE", str(tmp_path / "cache"))
    shutil.copytree(made(request.param), tmp_path / "run")
    return tmp_path / "run", JOBS[request.param][1]


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main(["show", *map(str, arguments)])
    caught = capsys.readouterr()
    return code, caught.out, caught.err


def edited(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """The run's record changed, and whole again by its checksum."""
    record = json.loads((folder / "run.json").read_text())
    change(record)
    record["sha256"] = _checksum({k: v for k, v in record.items() if k != "sha256"})
    (folder / "run.json").write_text(json.dumps(record))


def test_prints_what_is_whole_and_refuses_what_was_changed(
    run: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, written = run
    code, out, _ = call(capsys, folder)
    assert code == 0
    assert len(out) > 100
    json.loads(call(capsys, folder, "--json")[1])
    for name in [n for n in (written, "report.html", "report.md", "run.json") if (folder / n).exists()]:
        whole = (folder / name).read_bytes()
        for damaged in (whole.replace(b"0", b"1", 1), whole[: len(whole) // 2], b"", None):
            if damaged is None:
                (folder / name).unlink()
            else:
                (folder / name).write_bytes(damaged)
            code, out, err = call(capsys, folder)
            assert (code, out) == (2, ""), (name, damaged)
            assert one_line(ValueError(err.strip())).startswith("error: ")
            assert name in err
        (folder / name).write_bytes(whole)
    assert call(capsys, folder)[0] == 0


@pytest.mark.parametrize("content", ["{}", "[]", "[" * 100_000, '{"figures": 3}', '{"audits": [{}]}', "1"])
def test_figures_of_another_form_are_one_line(
    run: tuple[Path, str], capsys: pytest.CaptureFixture[str], content: str
) -> None:
    folder, written = run
    (folder / written).write_text(content)
    (folder / "report.md").unlink(missing_ok=True)
    from unweave.io.files import sha256

    def believed(record: dict[str, Any]) -> None:
        for stage in record["stages"].values():
            stage["artefacts"].pop("report.md", None)
            stage["makes"] = [m for m in stage["makes"] if m != "report.md"]
            if written in stage["artefacts"]:
                stage["artefacts"][written] = sha256(folder / written)

    edited(folder, believed)
    code, _, err = call(capsys, folder)
    assert code == 2
    assert written in err
    assert len(err.strip().splitlines()) == 1


def test_a_run_that_was_stopped_says_what_is_done_and_how_to_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNWEAVE_CACHE", str(tmp_path / "cache"))
    forget(tmp_path / "run")

    def stopped(record: dict[str, Any]) -> None:
        del record["stages"]["report"]

    edited(tmp_path / "run", stopped)
    for name in ("report.md", "report.html"):
        os.unlink(tmp_path / "run" / name)
    code, _, err = call(capsys, tmp_path / "run")
    assert code == 2
    assert "Finished: train, edit mine, reference, audit, holders; its report was not begun." in err
    assert "unweave forget project.py --where owner=VALUE --out 'my run'" in err
    assert "yours to fill in" in err

    def begun(record: dict[str, Any]) -> None:
        del record["stages"]["holders"]
        record["stages"]["audit"].update(state="unfinished", artefacts={})
        record["command"] = []

    edited(tmp_path / "run", begun)
    err = call(capsys, tmp_path / "run")[2]
    assert "Finished: train, edit mine, reference; begun: audit." in err
    assert "the same job and the same folder" in err
