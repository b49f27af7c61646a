"""Peak memory of one deletion request beside the size of its model, measured in a process of its own.

    python -m benchmarks.request_memory [--millions 10 50]

A project of 1,000 examples and a network of eight equal layers of that many million weights in all (float32), its model given as a file; forget by
fine-tuning, no models to compare with. What a process takes that imports unweave and runs the same request on a tiny
network is measured too, and taken off: the ratio is of what grows with the model.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

PROJECT = """
import torch
from torch import nn
from unweave import Supervised, seeded
from unweave.embedded.digits import of_tensors

WIDTH = {width}
rng = seeded(0)
y = torch.arange(1200) % 3
x = 1.2 * torch.randn(3, 8, generator=rng)[y] + torch.randn(1200, 8, generator=rng)
train = of_tensors(x[:1000], y[:1000], classes=3, batch_size=100)
heldout = of_tensors(x[1000:], y[1000:], classes=3, batch_size=100)
def net():
    inner = [layer for _ in range(8) for layer in (nn.Linear(WIDTH, WIDTH), nn.ReLU())]
    return nn.Sequential(nn.Linear(8, WIDTH), nn.ReLU(), *inner, nn.Linear(WIDTH, 3))
recipe = Supervised(network=net, epochs=1, lr=0.01, init_seed=0)
"""
MODEL = """
import runpy, sys
from unweave.io.checkpoint import save_model
save_model(runpy.run_path("project.py")["net"](), "model.safetensors")
"""
REQUEST = (
    "forget", "project.py", "--model", "model.safetensors", "--random", "100", "--method", "fine-tune",
    "--fine-tune.epochs", "1", "--oracles", "0", "--holders", "0", "--quick", "--jobs", "1", "--out", "run",
)  # fmt: skip


def peak(width: int) -> tuple[float, float]:
    """Peak MiB of the request's process, and the model's MiB."""
    with tempfile.TemporaryDirectory() as room:
        Path(room, "project.py").write_text(PROJECT.format(width=width))
        environment = {
            **os.environ,
            "UNWEAVE_CACHE": f"{room}/cache",
            "UNWEAVE_PROGRESS": "0",
            "OMP_NUM_THREADS": "1",
        }
        subprocess.run([sys.executable, "-c", MODEL], cwd=room, env=environment, check=True)
        child = subprocess.Popen(
            [sys.executable, "-m", "unweave", *REQUEST],
            cwd=room, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert child.stderr is not None
        said = child.stderr.read()
        _, status, used = os.wait4(child.pid, 0)
        if os.waitstatus_to_exitcode(status) not in (0, 3):
            raise SystemExit(said)
        return used.ru_maxrss / 1024, Path(room, "model.safetensors").stat().st_size / 2**20


def main() -> None:
    """Measure, print, and write benchmarks/results/request_memory.json."""
    asked = argparse.ArgumentParser()
    asked.add_argument("--millions", type=float, nargs="+", default=[10, 50])
    asked.add_argument("--write", action="store_true")
    options = asked.parse_args()
    nothing, _ = peak(16)
    print(f"tiny network: {nothing:,.0f} MiB")
    rows = []
    for millions in options.millions:
        used, model = peak(round((millions * 1e6 / 8) ** 0.5))
        rows.append({"million weights": millions, "peak MiB": round(used), "model MiB": round(model, 1),
                     "times the model": round((used - nothing) / model, 2)})  # fmt: skip
        print(json.dumps(rows[-1]))
    if options.write:
        told = {
            "when": datetime.now(UTC).isoformat(timespec="seconds"),
            "tiny network MiB": round(nothing),
            "rows": rows,
        }
        Path(__file__).with_name("results").joinpath("request_memory.json").write_text(
            json.dumps(told, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
