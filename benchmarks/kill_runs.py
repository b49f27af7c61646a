"""kill -9 at seeded random moments, the same command again: same bits, nothing left behind.

    python -m benchmarks.kill_runs [--kills 100] [--seed 0]

A request on the embedded digits with a short recipe, checkpoints after every step (UNWEAVE_CHECKPOINT_SECONDS=0), so
that writing checkpoints, cached models, the run's record and its report is hit as well as training. Each run is killed
up to three times, then carried to its end, and compared with one that was never killed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from unweave.io.files import sha256

PROJECT = """
from functools import partial
from unweave import Supervised
from unweave.embedded.digits import digits
from unweave.embedded.nets import mlp
recipe = Supervised(network=partial(mlp, 64, 64, 10), epochs=3, lr=0.05, init_seed=0)
train, heldout = digits()
"""
REQUEST = (
    "forget", "project.py", "--classes", "3", "--method", "fine-tune", "--fine-tune.epochs", "2", "--oracles", "3",
    "--holders", "2", "--jobs", "2", "--quick", "--out", "run",
)  # fmt: skip
TIMED = {"run.json", "audit.json", "report.html", "report.md"}


def begin(room: Path) -> subprocess.Popen[bytes]:
    """Start the request in a session of its own."""
    environment = {
        **os.environ, "UNWEAVE_CACHE": str(room / "cache"), "UNWEAVE_PROGRESS": "0", "OMP_NUM_THREADS": "1",
        "UNWEAVE_CHECKPOINT_SECONDS": "0",
    }  # fmt: skip
    (room / "project.py").write_text(PROJECT)
    return subprocess.Popen(
        [sys.executable, "-m", "unweave", *REQUEST], cwd=room, env=environment, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def session(leader: int) -> list[int]:
    """Living processes of a session."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            fields = (
                (entry / "stat").read_text().rpartition(")")[2].split() if entry.name.isdigit() else ["Z"]
            )
        except OSError:
            continue
        if fields[0] != "Z" and int(fields[3]) == leader:
            found.append(int(entry.name))
    return found


def bits(room: Path) -> dict[str, object]:
    """What a run and its cache hold, without wall times."""
    found: dict[str, object] = {}
    for file in sorted(p for top in ("run", "cache") for p in (room / top).rglob("*") if p.is_file()):
        name = file.relative_to(room).as_posix()
        if file.suffix == ".safetensors" and file.parent.parent.name == "models":
            name = f"cache/{file.parent.name}/{file.name}"
        timed = file.name in TIMED or "costs" in file.parts or file.suffix in (".json", ".lock")
        found[name] = None if timed else sha256(file)
    audits = json.loads((room / "run" / "audit.json").read_text())["audits"]
    found["figures"] = [
        (m["name"], m["value"], m["oracle_mean"])
        for a in audits for m in a["measurements"] if not m["name"].startswith("time of")
    ]  # fmt: skip
    return found


def left_behind(room: Path) -> list[str]:
    """Temporary files and unfinished trainings."""
    names = (".partial", ".unfinished", ".work", ".lock")
    return [
        str(p.relative_to(room))
        for p in room.rglob("*")
        if p.name.endswith(names) or p.name.startswith(".tmp")
    ]


def main() -> None:
    """Kill, go on, compare, print, and write benchmarks/results/kill_runs.json with --write."""
    asked = argparse.ArgumentParser()
    asked.add_argument("--kills", type=int, default=100)
    asked.add_argument("--seed", type=int, default=0)
    asked.add_argument("--write", action="store_true")
    options = asked.parse_args()
    draw, top = random.Random(options.seed), Path(tempfile.mkdtemp(prefix="kills-"))
    whole = top / "whole"
    whole.mkdir()
    began = time.monotonic()
    if begin(whole).wait() not in (0, 3):
        raise SystemExit("the request alone does not end")
    took, expected = time.monotonic() - began, bits(whole)
    told = {"kills": 0, "runs": 0, "other bits": 0, "left behind": 0, "living workers": 0, "failed": 0}
    hit: dict[str, int] = {}
    while told["kills"] < options.kills:
        room = top / f"run-{told['runs']}"
        room.mkdir()
        for _ in range(min(3, options.kills - told["kills"])):
            run = begin(room)
            time.sleep(draw.uniform(0.15, 1.0) * took)
            if run.poll() is not None:
                break
            os.kill(run.pid, signal.SIGKILL)
            run.wait()
            told["kills"] += 1
            record = room / "run" / "run.json"
            stages = json.loads(record.read_text())["stages"] if record.exists() else {}
            at = next(
                (n for n, s in stages.items() if s["state"] != "finished"),
                "between stages" if stages else "begin",
            )
            hit[at] = hit.get(at, 0) + 1
            end = time.monotonic() + 5
            while (alive := session(run.pid)) and time.monotonic() < end:
                time.sleep(0.05)
            told["living workers"] += len(alive)
        told["runs"] += 1
        told["failed"] += begin(room).wait() not in (0, 3)
        told["other bits"] += bits(room) != expected
        told["left behind"] += len(left_behind(room))
        shutil.rmtree(room)
        print(json.dumps({**told, "killed in": hit}), flush=True)
    shutil.rmtree(top)
    if options.write:
        record = {
            "when": datetime.now(UTC).isoformat(timespec="seconds"),
            "seed": options.seed,
            **told,
            "killed in": hit,
        }
        Path(__file__).with_name("results").joinpath("kill_runs.json").write_text(
            json.dumps(record, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
