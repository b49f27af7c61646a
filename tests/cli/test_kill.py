"""A request killed at any moment goes on to the same bits and leaves no orphan behind."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.cli.projects import make_project
from tests.faults import contents, partials

TIMED = ("run.json", "audit.json", "report.html", "report.md", "holders.json")  # the last names the folders
REQUEST = (
    "forget", "project.py", "--model", "model.safetensors", "--random", "30", "--oracles", "4", "--holders", "3",
    "--quick",
    "--jobs", "1",
    "--method", "unprune+fine-tune", "--compare", "salun", "--out",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_project(tmp_path_factory.mktemp("killed"))


def start(folder: Path, run: str) -> int:
    """Begin the request in a forked process, so that no time is lost on imports; returns its process id."""
    pid = os.fork()
    if pid:
        return pid
    os.chdir(folder)
    os.environ |= {"UNWEAVE_CACHE": str(folder / f"cache-{run}"), "UNWEAVE_PROGRESS": "0"}
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a test worker may ignore it
    torch.set_num_threads(1)
    from unweave.cli import main

    os._exit(main([*REQUEST, run]))


def finish(folder: Path, run: str) -> None:
    _, status = os.waitpid(start(folder, run), 0)
    assert os.waitstatus_to_exitcode(status) in (0, 3)


def untimed(folder: Path, run: str) -> dict[str, object]:
    """All that a run left, without wall times."""
    files: dict[str, object] = {
        name: data
        for name, data in contents(folder / run, but=TIMED).items()
        if not name.startswith(("costs/", "retraining.json"))
    }
    files |= {
        f"cache/{n}": d for n, d in contents(folder / f"cache-{run}").items() if not n.endswith(".json")
    }
    audits = json.loads((folder / run / "audit.json").read_text())["audits"]
    for audit in audits:
        audit["measurements"] = [m for m in audit["measurements"] if not m["name"].startswith("time of")]
    record = json.loads((folder / run / "run.json").read_text())
    files["audit"] = audits
    files["record"] = [record[key] for key in ("settings", "seed", "inputs", "versions")]
    held = json.loads((folder / run / "holders.json").read_text())
    files["held"] = [(h["what"], h["ours"], h["removed"]) for h in held]
    files["names"] = sorted(p.name for p in (folder / run).rglob("*"))
    return files


@pytest.mark.slow
def test_killed_at_random_moments_goes_on_to_the_same_bits(folder: Path) -> None:
    began = time.monotonic()
    finish(folder, "whole")
    took = time.monotonic() - began
    expected = untimed(folder, "whole")
    draw = random.Random(int(os.environ.get("UNWEAVE_KILL_SEED", "7")))
    kills = rounds = 0
    while kills < 6:
        rounds += 1
        run = f"run{rounds}"
        for _ in range(3):
            pid = start(folder, run)
            time.sleep(draw.uniform(0.02, 0.7) * took)
            os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            kills += os.waitstatus_to_exitcode(status) == -signal.SIGKILL
        finish(folder, run)
        found = untimed(folder, run)
        assert found.keys() == expected.keys()
        for name in expected:
            assert found[name] == expected[name], name
        assert not partials(folder / run)
        assert not partials(folder / f"cache-{run}")
        assert not list((folder / f"cache-{run}").rglob("*.unfinished"))
        assert not (folder / run / ".work").exists()
        shutil.rmtree(folder / run)
        shutil.rmtree(folder / f"cache-{run}")
        assert rounds < 40, "the request ends before it can be killed"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux to end workers with their parent")
def test_workers_end_with_a_killed_parent(folder: Path) -> None:
    command = [sys.executable, "-m", "unweave", *REQUEST, "orphans", "--seed", "1"]
    command[command.index("--jobs") + 1] = "2"
    environment = {
        **os.environ,
        "UNWEAVE_CACHE": str(folder / "cache-orphans"),
        "UNWEAVE_PROGRESS": "0",
        "OMP_NUM_THREADS": "1",
        "LOKY_MAX_CPU_COUNT": "2",
    }
    process = subprocess.Popen(
        command, cwd=folder, env=environment, start_new_session=True, stdout=subprocess.DEVNULL
    )
    end = time.monotonic() + 120
    while not list((folder / "cache-orphans").rglob("*.unfinished")):
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.02)
    process.kill()
    process.wait()
    end = time.monotonic() + 60
    while (left := _session(process.pid)) and time.monotonic() < end:
        time.sleep(0.1)
    assert not left, "workers outlived the run"


def _session(leader: int) -> list[int]:
    alive = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if (
                int(fields[3]) == leader
                and fields[0] != "Z"
                and b"popen_loky" in (entry / "cmdline").read_bytes()
            ):
                alive.append(int(entry.name))
    return alive


def test_ctrl_c_leaves_a_resumable_run(folder: Path) -> None:
    for run in ("stopped", "stopped2", "stopped3"):  # a busy machine may let a run end before it is stopped
        pid = start(folder, run)
        while not (folder / run / "run.json").exists():
            time.sleep(0.01)
        time.sleep(0.1)
        os.kill(pid, signal.SIGINT)
        _, status = os.waitpid(pid, 0)
        if os.waitstatus_to_exitcode(status) == 130:
            break
        assert os.waitstatus_to_exitcode(status) == 3
    else:
        pytest.fail("three runs went on after SIGINT")
    finish(folder, run)


def test_a_flipped_bit_in_a_stored_model_or_the_data_is_caught(folder: Path) -> None:
    from unweave.cli import main

    finish(folder, "flipped")
    for name in ("flipped/model/model.safetensors", "model.safetensors", "project.py"):
        whole = (folder / name).read_bytes()
        broken = bytearray(whole)
        broken[-3] ^= 4
        (folder / name).write_bytes(
            bytes(broken) if name != "project.py" else whole.replace(b"1.2 *", b"1.3 *")
        )
        before = os.getcwd()
        os.chdir(folder)
        try:
            assert main([*REQUEST, "flipped"]) == 2, name
        finally:
            os.chdir(before)
            (folder / name).write_bytes(whole)
