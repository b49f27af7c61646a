"""The key of a cached model: what could change it changes the key, and nothing else does."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.processes import run_python
from unweave import Data, Supervised
from unweave.embedded.digits import of_tensors
from unweave.embedded.nets import mlp
from unweave.errors import InputError
from unweave.io.content import UnstableError, describe, described, fingerprint
from unweave.io.source import helpers_of
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
    done = run_python(ASK, cwd=folder)
    assert done.returncode == 0, done.stderr
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


LAZY = """
class Own:
    def build(self, data, *, rng):
        from pack.inner import deep
        return deep.WIDTH
"""


def test_a_module_that_is_imported_only_when_it_runs_counts_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pack" / "inner").mkdir(parents=True)
    for name, text in (
        ("project.py", LAZY), ("pack/__init__.py", ""), ("pack/inner/__init__.py", "from ..side import *\n"),
        ("pack/inner/deep.py", "WIDTH = 1\n"), ("pack/side.py", "x = 1\n"), ("pack/apart.py", "x = 1\n"),
    ):  # fmt: skip
        (tmp_path / name).write_text(text)
    found = helpers_of(tmp_path / "project.py")
    names = ("pack", "pack.inner", "pack.inner.deep", "pack.side")
    assert set(found) == {f"module {name}" for name in names}
    assert found["module pack.side"] == tmp_path.resolve() / "pack" / "side.py"
    project = ModuleType("unweave_project_lazy")
    project.__file__ = str(tmp_path / "project.py")
    monkeypatch.setitem(sys.modules, project.__name__, project)
    exec(compile(LAZY, project.__file__, "exec"), project.__dict__)
    before = describe(project.Own())
    (tmp_path / "pack" / "apart.py").write_text("x = 2\n")
    assert describe(project.Own()) == before
    (tmp_path / "pack" / "inner" / "deep.py").write_text("WIDTH = 2\n")
    assert describe(project.Own()) != before


def test_a_projects_helpers_are_found_by_reading(project: Path) -> None:
    (project / "helper.py").write_text("import third\n" + HELPER)
    (project / "third.py").write_text("import json, torch\n")
    assert helpers_of(project / "project.py") == {
        f"module {name}": project.resolve() / f"{name}.py" for name in ("helper", "other", "third")
    }


def test_folders_count_by_their_contents_and_not_by_their_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("a", "b"):
        (tmp_path / place / "base").mkdir(parents=True)
        (tmp_path / place / "base" / "config.json").write_text("{}")
    for named in (Path("base"), "base", "./base"):
        monkeypatch.chdir(tmp_path / "a")
        first = describe([named])
        monkeypatch.chdir(tmp_path / "b")
        assert describe([named]) == first
        (tmp_path / "b" / "base" / "config.json").write_text('{"layers": 2}')
        assert describe([named]) != first
        (tmp_path / "b" / "base" / "config.json").write_text("{}")
    assert describe(Path("absent")) != first
    absent = describe(Path("absent"))
    monkeypatch.chdir(tmp_path / "a")
    assert describe(Path("absent")) != absent  # the same words name another place
    (tmp_path / "a" / "train" / "cats").mkdir(parents=True)
    before = describe(["train"])
    (tmp_path / "a" / "train" / "cats" / "1.txt").write_text("x")
    assert describe(["train"]) == before  # a word


def test_arrays_and_modules_count_by_all_their_bytes() -> None:
    long = torch.zeros(5000)
    other = long.clone()
    other[2500] = 1.0
    assert (
        len(
            {
                describe([x])
                for x in (long, other, long.numpy(), other.numpy(), long.view(50, 100), long.int())
            }
        )
        == 6
    )
    assert described({"a": long.numpy()}) != described({"a": other.numpy()})
    named = Data([{"x": long.numpy()}], Classify(2), 1, collate=lambda rows: rows[0])  # type: ignore[arg-type]
    changed = Data([{"x": other.numpy()}], Classify(2), 1, collate=lambda rows: rows[0])  # type: ignore[arg-type]
    assert fingerprint(named) != fingerprint(changed)

    class Scaled(nn.Module):
        def __init__(self, by: float) -> None:
            super().__init__()
            self.by = by
            self.register_buffer("shift", torch.zeros(1), persistent=False)

    first, second = Scaled(1.0), Scaled(2.0)
    assert describe(first) == describe(Scaled(1.0)) != describe(second)
    second.by = 1.0
    second.get_buffer("shift")[0] = 1.0
    assert describe(first) != describe(second)


def test_what_a_function_reads_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    def reads() -> Any:
        return SETTING

    before = describe(reads)
    monkeypatch.setitem(globals(), "SETTING", 4)
    assert describe(reads) != before

    def keyword(k: int) -> Any:
        def inner(*, width: int = k) -> int:
            return width

        return inner

    def local(k: int) -> Any:
        class Own:
            def build(self) -> int:
                return k

        return Own()

    for make in (keyword, local):
        assert describe(make(1)) == describe(make(1)) != describe(make(2))


SETTING = 3


class Slotted:
    __slots__ = ("width",)

    def __init__(self, width: int) -> None:
        self.width = width


def test_objects_of_every_make_count_by_what_they_hold() -> None:
    from collections import OrderedDict, deque
    from enum import Enum
    from fractions import Fraction

    class Kind(Enum):
        a = 1
        b = 2

    pairs: list[tuple[Any, Any]] = [
        (Slotted(1), Slotted(2)), (deque([1]), deque([2])), (Kind.a, Kind.b), (Fraction(1, 2), Fraction(1, 3)),
        (torch.relu, torch.sigmoid), (torch.float16, torch.float32), ({1: 2}, {"1": 2}), ((1, 2), [1, 2]),
        ({"a", "b"}, {"a", "c"}), (b"a", "a"), (1, True), (1, 1.0), (slice(3), slice(4)), (nn.ReLU, nn.Tanh),
        (OrderedDict(a=1, b=2), OrderedDict(b=2, a=1)), (torch.device("cpu"), torch.device("meta")),
    ]  # fmt: skip
    for one, other in pairs:
        assert describe([one]) == describe([one]) != describe([other]), one
    shared = [1, 2]
    assert describe([shared, shared]) == describe(
        [[1, 2], [1, 2]]
    )  # equal is enough: it need not be the same
    around: list[Any] = [1]
    around.append(around)
    assert describe(around) == describe(around)


def test_what_cannot_be_told_is_refused_by_its_place() -> None:
    @dataclass(frozen=True)
    class Own:
        rng: Any

    with pytest.raises(UnstableError, match=r"^recipe\.rng, a Generator, has no description"):
        describe(Own(torch.Generator()))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_data_that_are_not_finite_are_refused_with_side_and_first_examples(value: float) -> None:
    x = torch.zeros(30, 2)
    data = of_tensors(x, torch.arange(30) % 2, classes=2, batch_size=4)
    assert fingerprint(data, "training") == fingerprint(data)
    x[[3, 9, 10, 11, 20, 29], 1] = value
    told = r"^training data: 6 of 30 examples hold NaN or infinity, at position 3, 9, 10, 11, 20 \.\.\. \(from 0\)"
    with pytest.raises(InputError, match=told):
        fingerprint(data, "training")
    fingerprint(data)
    rows = [{"a": np.array([0.0, value if i == 2 else 1.0]), "b": "x"} for i in range(5)]
    named = Data(rows, Classify(2), 1, collate=lambda found: np.stack([row["a"] for row in found]))  # type: ignore[arg-type]
    with pytest.raises(
        InputError, match="held-out data: 1 of 5 example holds NaN or infinity, at position 2 "
    ):
        fingerprint(named, "held-out")
