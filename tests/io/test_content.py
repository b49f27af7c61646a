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

from unweave import Data, Supervised
from unweave.embedded.digits import of_tensors
from unweave.embedded.nets import mlp
from unweave.io.content import UnstableError, describe, described, fingerprint
from unweave.tasks import Classify

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


def test_names_defaults_and_constants_of_a_function_count() -> None:
    functions = [
        lambda x: x.sum(),
        lambda x: x.mean(),
        lambda x, k=1: x.sum() + k,
        lambda x, k=2: x.sum() + k,
        lambda x, k=1: x.sum() + k + 1,
        lambda x: [y + 1 for y in x],
        lambda x: [y + 2 for y in x],
    ]
    assert len({describe(f) for f in functions}) == len(functions)


def test_data_are_told_apart_by_all_that_a_training_sees() -> None:
    def data(**other: Any) -> str:
        given = {"x": torch.arange(12.0).view(6, 2), "y": torch.arange(6) % 2, "classes": 2, "batch_size": 3}
        given |= other
        return fingerprint(
            of_tensors(given["x"], given["y"], classes=given["classes"], batch_size=given["batch_size"])
        )

    x = torch.arange(12.0).view(6, 2)
    changes: list[dict[str, Any]] = [
        {}, {"classes": 3}, {"batch_size": 4}, {"x": x.flip(0)}, {"x": x.view(6, 1, 2)}, {"x": x.double()},
        {"x": -x}, {"y": (torch.arange(6) + 1) % 2},
    ]  # fmt: skip
    assert len({data(**change) for change in changes}) == len(changes)
    assert data(x=x.t().contiguous().t()) == data()
    named = [[{"a": torch.tensor(1), "b": torch.tensor(i)}] for i in (1, 2)] + [[{"b": 1, "c": 1}]]
    assert len({fingerprint(Data(examples, Classify(2), 1)) for examples in named}) == 3  # type: ignore[arg-type]


def test_a_description_in_words_names_classes_fields_and_calls() -> None:
    told = described(Supervised(network=partial(mlp, 8, 3, batch_norm=True), epochs=7))
    assert told["class"] == "unweave.fit.recipe.Supervised"
    assert told["epochs"] == 7
    assert told["network"]["args"] == [8, 3]
    assert told["network"]["batch_norm"] is True
    assert told["network"]["call"].startswith("mlp ")
    assert described({"a": (torch.tensor([1.0]), None)}) == described({"a": [torch.tensor([1.0]), None]})
    assert described(torch.tensor([1.0])) != described(torch.tensor([2.0]))


def test_what_cannot_be_told_is_refused_by_its_place() -> None:
    @dataclass(frozen=True)
    class Own:
        rng: Any

    with pytest.raises(UnstableError, match=r"^recipe\.rng, a Generator, has no description"):
        describe(Own(torch.Generator()))
