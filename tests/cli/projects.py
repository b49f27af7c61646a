"""Small projects of a user's own, made in a folder by tests."""

from __future__ import annotations

import subprocess
from pathlib import Path

import torch

from tests.processes import run_module

PROJECT = """
import torch
from functools import partial
from unweave import Supervised, seeded
from unweave.embedded.digits import of_tensors
from unweave.embedded.nets import mlp
from unweave.prune import Global, Prune

rng = seeded(0)
centres = 1.2 * torch.randn(3, 8, generator=rng)
labels = torch.arange(240) % 3
inputs = centres[labels] + torch.randn(240, 8, generator=rng)
train = of_tensors(inputs[:150], labels[:150], classes=3, batch_size=16)
heldout = of_tensors(inputs[150:], labels[150:], classes=3, batch_size=16)
class_names = ["ash", "birch", "cedar"]
columns = {"owner": [i // 10 for i in range(150)]}
recipe = Supervised(
    network=partial(mlp, 8, 32, 3), epochs=12, lr=0.1, init_seed=0,
    prune=Prune(budget=Global(0.5)), recover_epochs=4, recover_lr=0.05,
)
"""


def make_project(folder: Path) -> Path:
    """project.py and model.safetensors, trained by the recipe."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "project.py").write_text(PROJECT)
    from unweave import seeded
    from unweave.io.checkpoint import save_model
    from unweave.jobs.opened import open_subject

    subject = open_subject(str(folder / "project.py"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    save_model(subject.recipe.build(subject.train, rng=seeded(0)), folder / "model.safetensors")
    torch.set_num_threads(threads)
    return folder


def unweave(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own, with a cache of trained models in that folder."""
    return run_module("unweave", *arguments, cwd=cwd, **{"UNWEAVE_CACHE": str(cwd / "cache"), **environment})
