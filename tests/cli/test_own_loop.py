"""A user's own loop and data through the commands: they work, or are refused with the file and the line."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.cli.projects import unweave
from unweave.cli import main
from unweave.cli._blame import in_users_code
from unweave.random import seeded

DATA = """
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
g = torch.Generator().manual_seed(0)
y = torch.arange(240) % 3
x = 2 * torch.eye(3)[y].repeat(1, 3) + torch.randn(240, 9, generator=g)
train, heldout = TensorDataset(x[:150], y[:150]), TensorDataset(x[150:], y[150:])

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(9, 24), nn.Linear(24, 3)
    def forward(self, x):
        return self.b(self.a(x).relu())
"""
LOOP = """
def recipe(train, seed):
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(3):
        for inputs, labels in DataLoader(train, batch_size=16, shuffle=True):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
    return model
"""
FEW = ("--oracles", "0", "--holders", "0", "--quick", "--jobs", "1")


def project(folder: Path, text: str) -> str:
    (folder / "project.py").write_text(DATA + text)
    return str(folder / "project.py")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNWEAVE_CACHE", str(tmp_path / "cache"))


@pytest.mark.slow
def test_every_command_serves_a_loop_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = project(tmp_path, LOOP + "network = Net\n")
    args = (
        "--classes",
        "1",
        "--method",
        "retrain",
        "--oracles",
        "2",
        "--holders",
        "2",
        "--quick",
        "--jobs",
        "1",
    )
    assert main(("forget", file, *args, "--out", "f")) == 0, "exact by construction"
    told = capsys.readouterr()
    assert told.err.count("note: the recipe is a function that trains") == 1
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == 4, "retrained models are kept"
    assert "the recipe is a function that trains" in (tmp_path / "f" / "report.html").read_text()
    assert (
        main(
            (
                "audit",
                file,
                "--model",
                "f/original",
                "--edited",
                "f/model",
                "--classes",
                "1",
                *FEW,
                "--out",
                "a",
            )
        )
        == 3
    )
    assert (
        main(
            (
                "prune",
                file,
                "--model",
                "f/original",
                "--sparsity",
                "0.5",
                "--recover-epochs",
                "1",
                "--out",
                "p",
            )
        )
        == 0
    )
    assert "recovered by AdamW" in capsys.readouterr().out
    assert main(("train", file, "--out", "t")) == 0
    assert "optimiser steps" not in json.loads((tmp_path / "t" / "train.json").read_text())["figures"]
    assert (
        main(
            (
                "compare",
                file,
                "--classes",
                "1",
                "--methods",
                "fine-tune",
                "salun",
                "--seeds",
                "1",
                "--jobs",
                "1",
                "--out",
                "c",
            )
        )
        == 0
    )


@pytest.mark.parametrize(
    ("text", "command", "message"),
    [
        (LOOP, ("forget", *FEW), "not which network its weights are read back into. Say it as network = Net"),
        (LOOP + "network = 3", ("forget", *FEW), "network in .* must make the untrained network"),
        (LOOP + "network = dict", ("forget", *FEW), "must make a torch.nn.Module; it made a dict"),
        (LOOP + "network = lambda: nn.Linear(4, 3)", ("forget", *FEW), r"the untrained network, a Linear, cannot read the data"),
        (LOOP + "network = Net", ("forget", "--method", "unprune+salun", *FEW), "unprune needs a recipe with epochs, initial"),
        ("def recipe(train): pass", ("forget", *FEW), r"recipe in project.py, line \d+, must take the examples and a seed"),
        ("recipe = Net", ("forget", *FEW), "must be a function .* got the class Net"),
        ("recipe = Net()", ("forget", *FEW), "must be a function .* got a Net"),
        ("def recipe(train, seed): list(train)\nnetwork = Net", ("forget", *FEW), r"line \d+, must return the trained model"),
        ("def recipe(train, seed): return Net()\nnetwork = Net", ("forget", *FEW), "trained without reading the data"),
        ("def recipe(t, seed):\n  len(t[0]); train\n  return Net()\nnetwork = Net", ("forget", *FEW), "reading only 1 of 150"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_one_line(
    tmp_path: Path, text: str, command: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name, *rest = command
    assert main((name, project(tmp_path, text), "--random", "75", *rest, "--out", "r")) == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert "Traceback" not in error


def test_a_recipe_that_reaches_the_data_past_its_argument_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "def recipe(part, seed):\n  list(part); len(x)\n  return Net()\nnetwork = Net"
    main(("forget", project(tmp_path, text), "--random", "75", "--method", "fine-tune", *FEW, "--out", "r"))
    assert "the recipe also reads x of" not in capsys.readouterr().err, "x is no data set that was given"
    text = text.replace("len(x)", "len(train)")
    main(("forget", project(tmp_path, text), "--random", "75", "--method", "fine-tune", *FEW, "--out", "q"))
    assert "the recipe also reads train of" in capsys.readouterr().err


def test_the_users_line_is_named_in_workers_too(tmp_path: Path) -> None:
    text = """
class Own:
    def initial(self, rng):
        return Net()
    def build(self, data, *, rng):
        raise RuntimeError("mine")
recipe = Own()
"""
    project(tmp_path, text + "torch.save(Net().state_dict(), 'model.pt')\n")
    done = unweave(
        "forget", "project.py", "--model", "model.pt", "--random", "75", "--method", "fine-tune", "--oracles", "4",
        "--holders", "4", "--jobs", "2", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "error: the project file, line 21: RuntimeError: mine. Mend it and run again." in done.stderr
    assert "Traceback" not in done.stderr


def test_an_error_of_ours_below_the_users_code_is_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = compile("def call(f):\n    f()\n", str(tmp_path / "mine.py"), "exec")
    space: dict[str, Any] = {}
    project = ModuleType("unweave_project_mine")
    project.__file__ = str(tmp_path / "project.py")
    monkeypatch.setitem(sys.modules, project.__name__, project)
    exec(code, space)

    with pytest.raises((TypeError, RuntimeError, ValueError), match=".") as caught:
        space["call"](lambda: seeded("x"))
    assert in_users_code(caught.value) == ""
    with pytest.raises(ValueError, match="invalid literal") as caught:
        space["call"](lambda: int("x"))
    assert "ValueError: invalid literal" in in_users_code(caught.value)
