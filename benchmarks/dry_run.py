"""What `unweave forget --dry-run` costs beside the run that it foretells, and how far off it is.

    python -m benchmarks.dry_run [--worlds digits images resnet] [--write]

Each world is served twice in processes of their own, with an empty cache and one job: with --dry-run, and for real. All
clocks are of the CPU, so that what else the machine does is left out; what importing takes is measured and told apart.
Cost is dry run over run, and foretold is the sum that the dry run prints over what the run took, both after the imports.
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

IMAGES = """
import sys
from pathlib import Path
import numpy as np
from PIL import Image
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

rng = np.random.default_rng(0)
for split, n in (("train", 400), ("test", 120)):
    for k, name in enumerate(("ash", "birch", "cedar", "elm")):
        at = Path("pets", split, name)
        at.mkdir(parents=True)
        for i in range(n // 4):
            picture = rng.normal(128, 40, (32, 32, 3))
            picture[8 * k : 8 * k + 8] += 60
            Image.fromarray(picture.clip(0, 255).astype("uint8")).save(at / f"{i:03}.png")
names = dict(enumerate(("ash", "birch", "cedar", "elm")))
config = ViTConfig(
    image_size=32, patch_size=4, hidden_size=64, intermediate_size=128, num_hidden_layers=4, num_attention_heads=4,
    num_labels=4, id2label=names, label2id={v: k for k, v in names.items()},
)
ViTForImageClassification(config).save_pretrained("vit")
ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained("vit")
"""
RESNET = """
from torch.utils.data import Subset
from benchmarks.cifar import cifar10, recipe as made
from dataclasses import replace
train, heldout = (data.subset(range(n)) for data, n in zip(cifar10(), (3000, 1000)))
recipe = replace(made(init_seed=0), epochs=2)
"""
DRIVER = """
import sys, time
import unweave.jobs.forget, unweave.jobs.estimate, unweave.fit.context
from unweave.cli import main
import torch._dynamo  # which the first optimiser imports
unweave.jobs.estimate.perf_counter = unweave.fit.context.monotonic = time.process_time
began = time.process_time()
code = main(sys.argv[1:])
print(f"CPU {began} {time.process_time() - began}", file=sys.stderr)
raise SystemExit(code)
"""
WORLDS = {
    "digits": ("", ("forget",)),
    "images": (
        IMAGES,
        ("forget", "./vit", "--data", "imagefolder:./pets", "--epochs", "10", "--classes", "birch"),
    ),
    "resnet": (RESNET, ("forget", "project.py", "--random", "300", "--oracles", "4", "--holders", "4")),
}


def measured(world: str) -> dict[str, float]:
    """CPU seconds of the dry run, of what it foretells, of the run, and of the imports."""
    prepare, command = WORLDS[world]
    with tempfile.TemporaryDirectory() as room:
        environment = {
            **os.environ, "UNWEAVE_CACHE": f"{room}/cache", "UNWEAVE_PROGRESS": "0", "OMP_NUM_THREADS": "1",
            "PYTHONPATH": f"{os.environ.get('PYTHONPATH', '')}{os.pathsep}{Path.cwd()}",
        }  # fmt: skip
        if world == "resnet":
            Path(room, "project.py").write_text(prepare)
        elif prepare:
            subprocess.run([sys.executable, "-c", prepare], cwd=room, env=environment, check=True)

        def timed(*more: str) -> tuple[float, float, str]:
            done = subprocess.run(
                [sys.executable, "-c", DRIVER, *command, "--jobs", "1", *more], cwd=room, env=environment,
                capture_output=True, text=True,
            )  # fmt: skip
            if done.returncode not in (0, 3):
                raise SystemExit(done.stderr)
            imports, seconds = done.stderr.rpartition("CPU ")[2].split()
            return float(imports), float(seconds), done.stdout

        imports, dry, told = timed("--dry-run", "--json")
        _, run, _ = timed("--out", "run")
        record = json.loads(Path(room, "run", "run.json").read_text())["times"]["stages"]
        print("  dry run:", {k: round(v, 1) for k, v in json.loads(told)["seconds"].items()})
        print("  run, by the clock:", {k: round(t["seconds"] or 0, 1) for k, t in record.items()})
    return {"imports": imports, "dry run": dry, "foretold": json.loads(told)["total"], "run": run}


def main() -> None:
    """Measure, print, and write benchmarks/results/dry_run.json."""
    asked = argparse.ArgumentParser()
    asked.add_argument("--worlds", nargs="+", default=list(WORLDS), choices=list(WORLDS))
    asked.add_argument("--write", action="store_true")
    options = asked.parse_args()
    rows = {}
    for world in options.worlds:
        print(world)
        rows[world] = found = measured(world)
        print(
            f"{world:8} imports {found['imports']:.1f} s, dry run {found['dry run']:.1f} s, run {found['run']:.1f} s: "
            f"cost {found['dry run'] / found['run']:.3f}, foretold {found['foretold'] / found['run']:.2f} of it"
        )
    if options.write:
        body = {"date": datetime.now(UTC).date().isoformat(), "cores": os.cpu_count(), "worlds": rows}
        Path("benchmarks/results/dry_run.json").write_text(json.dumps(body, indent=1) + "\n")


if __name__ == "__main__":
    main()
