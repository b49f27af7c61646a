"""The key of a cached model: what could change it changes the key, and nothing else does."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from unweave import Supervised
from unweave.embedded.nets import mlp
from unweave.io.content import UnstableError, describe

PROJECT = """
from dataclasses import dataclass
from helper import build, WIDTH
import other
from pathlib import Path

@dataclass(frozen=True)
class Own:
    lr: float = 0.1
    table: Path = Path("table.txt")
    def build(self, data, *, rng): return build(self.lr, WIDTH, other.DEPTH)

class Plain:
    def __init__(self, lr): self.lr = lr
    def build(self, data, *, rng): return self.lr

def maker(width):
    def train(data, *, rng): return width
    return train
"""
HELPER = "WIDTH = 3\ndef build(*args): return args\n"
ASK = """
import sys; sys.path.insert(0, ".")
import project
from unweave.io.content import describe
print(describe(project.Own()), describe(project.Plain(0.1)), describe(project.maker(3)))
"""


def keys(folder: Path) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-B", "-c", ASK], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name, text in (
        ("project.py", PROJECT),
        ("helper.py", HELPER),
        ("other.py", "DEPTH = 2\n"),
        ("table.txt", "1"),
    ):
        (tmp_path / name).write_text(text)
    return tmp_path


def test_the_key_is_the_same_in_every_process(project: Path) -> None:
    assert keys(project) == keys(project)


@pytest.mark.parametrize(
    ("file", "old", "new", "changed"),
    [
        ("project.py", "lr: float = 0.1", "lr: float = 0.2", [True, True, True]),
        ("helper.py", "WIDTH = 3", "WIDTH = 4", [True, True, True]),
        ("helper.py", "return args", "return args[::-1]", [True, True, True]),
        ("other.py", "2", "3", [True, True, True]),
        ("table.txt", "1", "2", [True, False, False]),
    ],
)
def test_code_that_could_change_the_model_changes_the_key(
    project: Path, file: str, old: str, new: str, changed: list[bool]
) -> None:
    before = keys(project)
    (project / file).write_text((project / file).read_text().replace(old, new))
    assert [a != b for a, b in zip(before, keys(project), strict=True)] == changed


def test_a_file_beside_that_is_not_imported_changes_nothing(project: Path) -> None:
    before = keys(project)
    (project / "unrelated.py").write_text("x = 1\n")
    assert keys(project) == before


def test_fields_closures_and_weights_count() -> None:
    assert describe(Supervised(network=partial(mlp, 8, 12, 3))) == describe(
        Supervised(network=partial(mlp, 8, 12, 3))
    )
    assert describe(Supervised(network=partial(mlp, 8, 12, 3))) != describe(
        Supervised(network=partial(mlp, 8, 13, 3))
    )
    assert describe(Supervised(network=partial(mlp, 8, 12, 3))) != describe(
        Supervised(network=partial(mlp, 8, 12, 3), epochs=31)
    )

    def closing(over: Any) -> Any:
        return lambda: over

    assert describe(closing(1)) == describe(closing(1)) != describe(closing(2))
    torch.manual_seed(0)
    layer, other = nn.Linear(2, 2), nn.Linear(2, 2)
    assert describe([layer]) != describe([other])
    other.load_state_dict(layer.state_dict())
    assert describe([layer]) == describe([other])


def test_what_cannot_be_told_is_refused_by_its_place() -> None:
    @dataclass(frozen=True)
    class Own:
        rng: Any

    with pytest.raises(UnstableError, match=r"^recipe\.rng, a Generator, has no description"):
        describe(Own(torch.Generator()))
