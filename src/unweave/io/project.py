"""The user's own project file: how the model was made, and on which data."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle
import torch
from torch import Tensor
from torch.nn import Module
from torch.utils.data import Dataset, TensorDataset

from ..errors import InputError
from ..random import seeded
from ..tasks.classify import Classify
from ..types import Data, Recipe
from .checkpoint import load_into
from .content import PROJECT_PREFIX

_NEEDED = ("recipe", "train", "heldout")
_EXAMPLE = "recipe = Supervised(network=...), train = Data(...) and heldout = Data(...)"


@dataclass(frozen=True, kw_only=True)
class Project:
    """What a project file defines.

    Attributes:
        path: of the file.
        recipe: how the model was made.
        train: all that it was trained on.
        heldout: examples of the same kind that it was not trained on.
        load: reads the user's model from a path; None if the recipe's network and a weights file are enough.
        class_names: of the labels, in their order; () if not given.
        columns: further facts about the training examples, name -> one value an example, to select deletions
            by.
    """

    path: Path
    recipe: Recipe
    train: Data[Any]
    heldout: Data[Any]
    load: Callable[[Path], Module] | None = None
    class_names: tuple[str, ...] = ()
    columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    def model(self, path: Path) -> Module:
        """The user's model with the weights at `path`: by the project's `load`, or into the recipe's network.

        Raises:
            InputError: if there is nothing there, `load` fails, or the recipe cannot make an untrained
                network.
        """
        path = Path(path)
        if self.load is not None:
            if not path.exists():
                raise InputError(f"there is no model at {path}.")
            model = _run(self.path, lambda: self.load(path))  # type: ignore[misc]
            if not isinstance(model, Module):
                raise InputError(
                    f"load in {self.path} must return a torch.nn.Module; it returned a "
                    f"{type(model).__name__}."
                )
            return model
        initial = getattr(self.recipe, "initial", None)
        if initial is None:
            raise InputError(
                f"{self.path} must define load(path): its recipe, a {type(self.recipe).__name__}, has no "
                "method "
                "initial(rng) that makes the untrained network."
            )
        network: Module = _run(self.path, lambda: initial(seeded(0)))
        return load_into(network, path)


def load_project(path: Path) -> Project:
    """Run the user's project file and take from it what it defines.

    It must define `recipe`, `train` and `heldout`; it may define `load`, `class_names` and `columns`. `train`
    and `heldout` are `Data`, or a plain data set of (input, label) pairs, or a pair of tensors (inputs,
    labels). The file is the user's own and runs as any script does, with its own folder importable; what it
    defines can be used in worker processes.

    Raises:
        InputError: if the file is absent, does not run, or lacks or misdefines a name; the message says which
            and in which line.
    """
    path = Path(path)
    module = _import(path)
    missing = [name for name in _NEEDED if not hasattr(module, name)]
    if missing:
        raise InputError(f"{path} does not define {' and '.join(missing)}. It must define {_EXAMPLE}.")
    recipe = module.recipe
    if isinstance(recipe, type) or not callable(getattr(recipe, "build", None)):
        raise InputError(
            f"recipe in {path} must have a method build(data, *, rng) that trains a model; got "
            f"{'the class ' + recipe.__name__ if isinstance(recipe, type) else 'a ' + type(recipe).__name__}."
        )
    train, heldout = _as_data(path, module.train, module.heldout)
    load = getattr(module, "load", None)
    if load is not None and not callable(load):
        raise InputError(f"load in {path} must be a function of a path; got a {type(load).__name__}.")
    return Project(
        path=path,
        recipe=recipe,
        train=train,
        heldout=heldout,
        load=load,
        class_names=_class_names(path, getattr(module, "class_names", ()), train),
        columns=_columns(path, getattr(module, "columns", {}), train),
    )


def _import(path: Path) -> ModuleType:
    if not path.is_file():
        raise InputError(f"there is no project file {path}. It is a Python file that defines {_EXAMPLE}.")
    full = path.resolve()
    name = f"{PROJECT_PREFIX}{hashlib.sha256(str(full).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, full)
    if spec is None or spec.loader is None:
        raise InputError(f"{path} is no Python file by its name. Give one that ends in .py.")
    module = importlib.util.module_from_spec(spec)
    loader = spec.loader
    if str(full.parent) not in sys.path:
        sys.path.append(str(full.parent))  # stays: workers import the project's neighbours later
    sys.modules[name] = module
    try:
        _run(path, lambda: loader.exec_module(module))
    except BaseException:
        del sys.modules[name]
        raise
    cloudpickle.register_pickle_by_value(module)  # for joblib's workers
    return module


def _run(path: Path, work: Callable[[], Any]) -> Any:
    try:
        return work()
    except SyntaxError as error:
        raise InputError(
            f"{error.filename or path}, line {error.lineno}: {error.msg}. Mend it and run again."
        ) from error
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        full = str(path.resolve())
        lines = [
            frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == full
        ]
        at = f", line {lines[-1]}" if lines else ""
        reason = " ".join(str(error).split())
        raise InputError(f"{path}{at}: {type(error).__name__}: {reason}. Mend it and run again.") from error


def _as_data(path: Path, train: Any, heldout: Any) -> tuple[Data[Any], Data[Any]]:
    named = {"train": train, "heldout": heldout}
    if isinstance(train, Data) and isinstance(heldout, Data):
        pair = (train, heldout)
    elif isinstance(train, Data) or isinstance(heldout, Data):
        given, other = ("train", "heldout") if isinstance(train, Data) else ("heldout", "train")
        plain = _plain(path, other, named[other])
        known: Data[Any] = named[given]
        wrapped: Data[Any] = Data(plain, known.task, known.batch_size, known.collate)
        pair = (known, wrapped) if given == "train" else (wrapped, known)
    else:
        sets = {name: _plain(path, name, value) for name, value in named.items()}
        labels = {name: _labels(path, name, examples) for name, examples in sets.items()}
        task = Classify(max(2, 1 + max(int(found.max()) for found in labels.values())))
        pair = (Data(sets["train"], task), Data(sets["heldout"], task))
    for name, data in zip(named, pair, strict=True):
        data.require_examples(f"{name} in {path}")
    return pair


def _plain(path: Path, name: str, value: Any) -> Dataset[Any]:
    if isinstance(value, tuple) and len(value) == 2 and all(isinstance(part, Tensor) for part in value):
        if len(value[0]) != len(value[1]):
            raise InputError(f"{name} in {path} pairs {len(value[0])} inputs with {len(value[1])} labels.")
        return TensorDataset(value[0], value[1])
    if isinstance(value, type) or not (hasattr(value, "__getitem__") and hasattr(value, "__len__")):
        raise InputError(
            f"{name} in {path} must be an unweave Data, a data set with a length, or a pair of tensors "
            "(inputs, labels); "
            "got "
            f"{'the class ' + value.__name__ if isinstance(value, type) else 'a ' + type(value).__name__}."
        )
    return value  # type: ignore[no-any-return]


def _labels(path: Path, name: str, examples: Any) -> Tensor:
    if len(examples) == 0:
        raise InputError(f"{name} in {path} holds no examples.")
    if isinstance(examples, TensorDataset) and len(examples.tensors) == 2:
        raw: Any = examples.tensors[1]
    else:
        try:
            raw = [int(examples[i][1]) for i in range(len(examples))]
        except Exception as error:  # the data set is the user's own code
            reason = f"{type(error).__name__}: {error}"
            raise InputError(
                f"{name} in {path} must hold pairs (input, label); reading them failed ({reason})."
            ) from error
    labels = torch.as_tensor(raw)
    if labels.is_floating_point() or labels.ndim != 1 or int(labels.min()) < 0:
        raise InputError(
            f"labels of {name} in {path} must be whole numbers from 0, one an example; got {labels.dtype} of "
            "shape "
            f"{tuple(labels.shape)}. For another task give a Data with its own task."
        )
    return labels


def _class_names(path: Path, names: Any, train: Data[Any]) -> tuple[str, ...]:
    if (
        isinstance(names, str)
        or not isinstance(names, Sequence)
        or not all(isinstance(name, str) for name in names)
    ):
        raise InputError(f"class_names in {path} must be a list of strings; got {names!r}.")
    classes = getattr(train.task, "classes", None)
    if names and classes is not None and len(names) != classes:
        raise InputError(f"class_names in {path} has {len(names)} names; the data has {classes} classes.")
    if len(set(names)) < len(names):
        raise InputError(f"class_names in {path} repeats a name. Each class needs its own.")
    return tuple(names)


def _columns(path: Path, columns: Any, train: Data[Any]) -> dict[str, Sequence[Any]]:
    if not isinstance(columns, Mapping):
        raise InputError(
            f"columns in {path} must map names to one value an example; got a {type(columns).__name__}."
        )
    for name, values in columns.items():
        count = len(values) if hasattr(values, "__len__") and not isinstance(values, str) else None
        if not isinstance(name, str) or count != len(train):
            raise InputError(
                f"columns[{name!r}] in {path} must have one value for each of {len(train)} examples; got "
                f"{count}."
            )
    return dict(columns)
