from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest
import torch

from tests.faults import one_line
from unweave import seeded
from unweave.errors import InputError
from unweave.io.checkpoint import save_model
from unweave.io.project import load_project
from unweave.parallel import parallel_map
from unweave.tasks.classify import Classify

_GOOD = """
import torch
from torch import nn
from unweave import Supervised
from neighbour import WIDTH

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, WIDTH)
    def forward(self, x):
        return self.layer(x)

recipe = Supervised(network=Net, epochs=1, lr=0.1)
train = (torch.randn(12, 4), torch.arange(12) % 3)
heldout = [(torch.randn(4), i % 3) for i in range(6)]
"""


@pytest.fixture(autouse=True)
def _restored_imports() -> Iterator[None]:
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name == "neighbour" or name.startswith("unweave_project_"):
            del sys.modules[name]


def _write(tmp_path: Path, text: str, name: str = "project.py") -> Path:
    (tmp_path / "neighbour.py").write_text("WIDTH = 3\n")
    (tmp_path / name).write_text(dedent(text))
    return tmp_path / name


def test_a_plain_project(tmp_path: Path) -> None:
    project = load_project(_write(tmp_path, _GOOD))
    assert project.train.task == project.heldout.task == Classify(3)
    assert (len(project.train), len(project.heldout)) == (12, 6)
    assert project.class_names == ()
    assert project.columns == {}
    model = project.recipe.build(project.train, rng=seeded(0))
    save_model(model, tmp_path / "m")
    loaded = project.model(tmp_path / "m")
    assert torch.equal(loaded.layer.weight, model.layer.weight)
    (batch,) = project.heldout.batches()
    assert project.heldout.task.losses(loaded, batch).shape == (6,)


def test_its_own_load_and_names(tmp_path: Path) -> None:
    project = load_project(
        _write(
            tmp_path,
            _GOOD
            + """
import json
def load(path):
    net = Net()
    nn.init.constant_(net.layer.weight, json.loads(path.read_text()))
    return net
class_names = ["a", "b", "c"]
columns = {"owner": ["x"] * 6 + ["y"] * 6}
""",
        )
    )
    (tmp_path / "m.json").write_text("0.25")
    assert project.model(tmp_path / "m.json").layer.weight.unique().tolist() == [0.25]
    assert project.class_names == ("a", "b", "c")
    assert list(project.columns["owner"])[6] == "y"
    with pytest.raises(InputError, match="there is no model at"):
        project.model(tmp_path / "absent")
    (tmp_path / "m.json").write_text("nonsense")
    with pytest.raises(InputError, match=r"project\.py, line \d+: JSONDecodeError"):
        project.model(tmp_path / "m.json")


def test_workers_can_use_it(tmp_path: Path) -> None:
    project = load_project(_write(tmp_path, _GOOD))

    def weigh(seed: int) -> float:
        return float(project.recipe.build(project.train, rng=seeded(seed)).layer.weight.detach().sum())

    assert parallel_map(weigh, [1, 2], jobs=2) == [weigh(1), weigh(2)]


def test_a_data_set_beside_a_data(tmp_path: Path) -> None:
    text = _GOOD.replace("train = (", "from unweave.embedded.digits import of_tensors\ntrain = of_tensors(")
    project = load_project(
        _write(tmp_path, text.replace("% 3)\nheldout", "% 3, classes=5, batch_size=7)\nheldout"))
    )
    assert project.heldout.task == Classify(5)
    assert project.heldout.batch_size == 7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("recipe = ", "receipt = "), r"does not define recipe\. It must define"),
        (("train = ", "heldout = "), r"does not define train\."),
        (
            ("recipe = Supervised(network=Net, epochs=1, lr=0.1)", "recipe = Net"),
            r"recipe in .* got the class Net",
        ),
        (("recipe = Supervised(network=Net, epochs=1, lr=0.1)", "recipe = 3"), r"recipe in .* got a int"),
        (("heldout = [", "heldout = 3 # ["), "heldout in .* must be an unweave Data.* got a int"),
        (("i % 3) for", "'dog') for"), r"got numbers in train, words in heldout"),
        (("(torch.randn(4), i % 3)", "3"), r"heldout in .* must hold pairs \(input, label\)"),
        (("i % 3) for", "i - 3) for"), "must be whole numbers from 0"),
        (("torch.arange(12) % 3", "torch.randn(12)"), "must be whole numbers from 0"),
        (("torch.arange(12) % 3", "torch.arange(11)"), "pairs 12 inputs with 11 labels"),
        (("range(6)", "range(0)"), "heldout in .* holds no examples"),
        (("import torch\n", "import torch\nload = 3\n"), "load in .* must be a function"),
        (
            ("import torch\n", "import torch\nclass_names = 'abc'\n"),
            "class_names in .* must be a list of strings",
        ),
        (("import torch\n", "import torch\nclass_names = ['a']\n"), "has 1 names; the data has 3 classes"),
        (("import torch\n", "import torch\nclass_names = ['a', 'b', 'a']\n"), "repeats a name"),
        (("import torch\n", "import torch\ncolumns = [1]\n"), "columns in .* must map names"),
        (
            ("import torch\n", "import torch\ncolumns = {'owner': [1]}\n"),
            "one value for each of 12 examples; got 1",
        ),
        (("recipe = ", "recipe = = "), r"project\.py, line 14: invalid syntax"),
        (("recipe = ", "1 / 0\nrecipe = "), r"project\.py, line 14: ZeroDivisionError: division by zero"),
        (("recipe = ", "exit(3)\nrecipe = "), r"project\.py, line 14: SystemExit: 3"),
        (
            ("import torch\n", "import torch, absent_thing\n"),
            r"line 2: ModuleNotFoundError: No module named 'absent_thing'",
        ),
    ],
)
def test_clear_errors(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    assert change[0] in _GOOD
    before = set(sys.modules)
    with pytest.raises(InputError, match=message) as caught:
        load_project(_write(tmp_path, _GOOD.replace(*change)))
    one_line(caught.value)
    if "line 14" in message:
        assert not [name for name in set(sys.modules) - before if name.startswith("unweave_project_")]


def test_a_neighbour_with_a_slip_is_named(tmp_path: Path) -> None:
    path = _write(tmp_path, _GOOD)
    (tmp_path / "neighbour.py").write_text("WIDTH = 3\nx = (\n")
    with pytest.raises(InputError, match=r"neighbour\.py, line 2: '\(' was never closed"):
        load_project(path)


def test_no_file_and_no_load(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no project file"):
        load_project(tmp_path / "project.py")
    with pytest.raises(InputError, match=r"Give one that ends in \.py"):
        load_project(_write(tmp_path, _GOOD, "project.txt"))
    text = _GOOD.replace(
        "recipe = Supervised(network=Net, epochs=1, lr=0.1)",
        "class Own:\n    def build(self, data, *, rng):\n        return Net()\nrecipe = Own()",
    )
    project = load_project(_write(tmp_path, text))
    with pytest.raises(
        InputError, match=r"must say what network .* Its recipe, a Own, has no method initial"
    ):
        project.model(tmp_path / "m")
