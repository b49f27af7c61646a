"""The user's own project file: how the model was made, and on which data."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle
from torch.nn import Module

from ..errors import InputError
from ..fit.own_loop import LOST, OwnLoop
from ..masks.layers import copied
from ..random import global_seed, seeded
from ..types import Data, Recipe
from .checkpoint import load_into
from .content import PROJECT_PREFIX
from .opening import open_data

_NEEDED = ("recipe", "train", "heldout")
_EXAMPLE = "recipe = Supervised(network=...) or def recipe(train, seed), train = ... and heldout = ..."


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
        network: makes an untrained network of the model's architecture, to read weights into; None if none is known.
        notes: what was decided about the file, in sentences.
    """

    path: Path
    recipe: Recipe
    train: Data[Any]
    heldout: Data[Any]
    load: Callable[[Path], Module] | None = None
    class_names: tuple[str, ...] = ()
    columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    network: Callable[[], Module] | None = None
    notes: tuple[str, ...] = ()

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
        if self.network is None:
            raise InputError(
                f"{self.path} must say what network the weights are of: network = Net (a class or function that makes "
                f"it), or load(path). Its recipe, a {type(self.recipe).__name__}, has no method initial(rng) that "
                "makes the untrained network."
            )
        return load_into(self.network(), path)


def load_project(path: Path) -> Project:
    """Run the user's project file and take from it what it defines.

    It must define `recipe`, `train` and `heldout`. `recipe` is an object with `build(data, *, rng)`, or a function
    `recipe(train, seed)` that returns a trained model. `train` and `heldout` are in any form of `io.forms`. It may
    define `load`, `network`, `class_names`, `columns`, `label`, `inputs` and `task`. The file is the user's own and
    runs as any script does, with its own folder importable; what it defines can be used in worker processes.

    Raises:
        InputError: if the file is absent, does not run, or lacks or misdefines a name; the message says which
            and in which line.
    """
    path = Path(path)
    module = _import(path)
    missing = [name for name in _NEEDED if not hasattr(module, name)]
    if missing:
        raise InputError(f"{path} does not define {' and '.join(missing)}. It must define {_EXAMPLE}.")
    recipe = _recipe(path, module.recipe)
    load = getattr(module, "load", None)
    if load is not None and not callable(load):
        raise InputError(f"load in {path} must be a function of a path; got a {type(load).__name__}.")
    given_names = _class_names(path, getattr(module, "class_names", ()))
    world = _run(path, lambda: open_data(path, module, given_names))
    notes = world.notes
    if isinstance(recipe, OwnLoop):
        past = recipe.names_data(module.train)
        notes = (LOST, *notes, *(_REACHES.format(name=n, file=path) for n in past))
    return Project(
        path=path,
        recipe=recipe,
        train=world.train,
        heldout=world.heldout,
        load=load,
        class_names=_fitting(path, given_names or world.class_names, world.train),
        columns={**world.columns, **_columns(path, getattr(module, "columns", {}), world.train)},
        network=_network(path, getattr(module, "network", None), recipe),
        notes=notes,
    )


_REACHES = (
    "the recipe also reads {name} of {file} itself, with the examples to be deleted in it: a model retrained by it is "
    "free of them only if it learns nothing from there."
)


def _recipe(path: Path, recipe: Any) -> Any:
    if not isinstance(recipe, type) and callable(getattr(recipe, "build", None)):
        return recipe
    if isinstance(recipe, (type, Module)) or not callable(recipe):
        got = "the class " + recipe.__name__ if isinstance(recipe, type) else "a " + type(recipe).__name__
        raise InputError(
            f"recipe in {path} must be a function recipe(train, seed) that returns a trained model, or have a method "
            f"build(data, *, rng) that does; got {got}."
        )
    return OwnLoop(function=recipe, file=path.name)


def _network(path: Path, network: Any, recipe: Any) -> Callable[[], Module] | None:
    """What makes an untrained network; the weights that it draws are never used."""
    if network is None:
        initial = getattr(recipe, "initial", None)
        return None if initial is None else partial(_made, path, partial(initial, seeded(0)))
    if not callable(network):
        raise InputError(
            f"network in {path} must make the untrained network: its class, or a function without arguments; got a "
            f"{type(network).__name__}."
        )
    return partial(_made, path, (lambda: copied(network)) if isinstance(network, Module) else network)


def _made(path: Path, make: Callable[[], Any]) -> Module:
    with global_seed(0):
        made = _run(path, make)
    if not isinstance(made, Module):
        raise InputError(f"network in {path} must make a torch.nn.Module; it made a {type(made).__name__}.")
    return made


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


def _class_names(path: Path, names: Any) -> tuple[str, ...]:
    if (
        isinstance(names, str)
        or not isinstance(names, Sequence)
        or not all(isinstance(name, str) for name in names)
    ):
        raise InputError(f"class_names in {path} must be a list of strings; got {names!r}.")
    if len(set(names)) < len(names):
        raise InputError(f"class_names in {path} repeats a name. Each class needs its own.")
    return tuple(names)


def _fitting(path: Path, names: tuple[str, ...], train: Data[Any]) -> tuple[str, ...]:
    classes = getattr(train.task, "classes", None)
    if names and classes is not None and len(names) != classes:
        raise InputError(f"class_names in {path} has {len(names)} names; the data has {classes} classes.")
    return names


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
