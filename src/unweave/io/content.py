"""What data, recipes and their code are, as hashes: whatever could change a model changes its hash."""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import inspect
import json
import re
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from functools import partial
from importlib.util import resolve_name
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module

from ..errors import InputError
from ..types import Data

_ADDRESS = re.compile(r"\bat 0x[0-9a-fA-F]+")
_INSTALLED = tuple(
    Path(p).resolve() for p in {sysconfig.get_path(k) for k in ("stdlib", "purelib", "platlib")}
)


PROJECT_PREFIX = "unweave_project_"
"""Of the names under which project files are imported."""


class UnstableError(InputError):
    """Something has no description that another process would find again, so nothing can be cached under it."""


def fingerprint(data: Data[Any]) -> str:
    """SHA-256 of all examples in order, with the task and batch size."""
    digest = hashlib.sha256(f"{data.task!r} {data.batch_size} {len(data)}".encode())
    for batch in data.batches():
        _feed(digest, batch)
    return digest.hexdigest()


def digest_of(example: Any) -> bytes:
    """SHA-256 of one example: tensors, arrays, numbers and text, in tuples, lists and mappings."""
    digest = hashlib.sha256()
    _feed(digest, example)
    return digest.digest()


def _feed(digest: Any, node: Any) -> None:
    if isinstance(node, Tensor):
        raw = node.detach().contiguous().cpu()
        digest.update(f"{raw.dtype}{tuple(raw.shape)}".encode())
        digest.update(raw.flatten().view(torch.uint8).numpy().tobytes() if raw.numel() else b"")
    elif isinstance(node, np.ndarray):
        digest.update(f"{node.dtype}{node.shape}".encode())
        digest.update(np.ascontiguousarray(node).tobytes())
    elif isinstance(node, Mapping):
        for key in sorted(node):
            digest.update(str(key).encode())
            _feed(digest, node[key])
    elif isinstance(node, (list, tuple)):
        for item in node:
            _feed(digest, item)
    else:
        digest.update(repr(node).encode())


def described(thing: Any) -> Any:
    """What a recipe or an edit is, as plain JSON: its fields, and hashes of the code of functions and classes in them.

    The same in every process, unlike `repr`, which shows the addresses of functions.
    """
    if isinstance(thing, partial):
        return {"call": described(thing.func), "args": described(thing.args), **described(thing.keywords)}
    if dataclasses.is_dataclass(thing) and not isinstance(thing, type):
        fields = {f.name: described(getattr(thing, f.name)) for f in dataclasses.fields(thing)}
        return {"class": f"{type(thing).__module__}.{type(thing).__qualname__}", **fields}
    if isinstance(thing, Mapping):
        return {str(k): described(v) for k, v in thing.items()}
    if isinstance(thing, (list, tuple)):
        return [described(v) for v in thing]
    if isinstance(thing, Tensor):
        raw = thing.detach().cpu().contiguous().flatten().view(torch.uint8)
        return hashlib.sha256(raw.numpy().tobytes()).hexdigest()
    if inspect.isfunction(thing) or inspect.isclass(thing):
        return f"{thing.__qualname__} {_source(thing)[:16]}"
    return thing if thing is None or isinstance(thing, (bool, int, float, str)) else repr(thing)


def describe(recipe: Any) -> str:
    """SHA-256 of all that could change what a recipe makes of the same data, the same in every process.

    That is: its fields, the files that they name, what its functions close over, the source of every class and
    function in it, and of the user's own modules beside them that are loaded.

    Raises:
        UnstableError: naming a part that has no such description.
    """
    seen: dict[int, Any] = {}
    modules: dict[str, str] = {}
    told = _told(recipe, seen, modules, "recipe")
    return hashlib.sha256(json.dumps([told, sorted(modules.items())], sort_keys=True).encode()).hexdigest()


def _told(thing: Any, seen: dict[int, Any], modules: dict[str, str], where: str) -> Any:
    if thing is None or isinstance(thing, (bool, int, float, str, bytes)):
        return repr(thing)
    if id(thing) in seen:
        return "seen before"
    seen[id(thing)] = thing

    def inner(part: Any, name: object) -> Any:
        return _told(part, seen, modules, f"{where}.{name}")

    if isinstance(thing, Path):
        return hashlib.sha256(thing.read_bytes()).hexdigest() if thing.is_file() else str(thing)
    if isinstance(thing, Tensor):
        return described(thing)
    if isinstance(thing, Mapping):
        return {str(k): inner(v, k) for k, v in thing.items()}
    if isinstance(thing, (list, tuple, set, frozenset)):
        return [
            inner(v, i)
            for i, v in enumerate(sorted(thing, key=repr) if isinstance(thing, (set, frozenset)) else thing)
        ]
    if isinstance(thing, partial):
        return [inner(thing.func, "func"), inner(thing.args, "args"), inner(thing.keywords, "keywords")]
    if inspect.isbuiltin(thing) or isinstance(thing, torch.dtype):
        return str(getattr(thing, "__qualname__", thing))
    if inspect.ismethod(thing):
        return [inner(thing.__self__, "self"), inner(thing.__func__, thing.__name__)]
    if inspect.isfunction(thing):
        _add_module(thing, modules)
        cells = [cell.cell_contents for cell in thing.__closure__ or () if _filled(cell)]
        return [
            thing.__qualname__,
            _code(thing.__code__),
            inner(cells, "closure"),
            inner(thing.__defaults__, "defaults"),
        ]
    if inspect.isclass(thing):
        _add_module(thing, modules)
        return f"{_name(thing.__module__)}.{thing.__qualname__}"
    return [inner(type(thing), "class"), _state(thing, inner, where)]


def _state(thing: Any, inner: Any, where: str) -> Any:
    if dataclasses.is_dataclass(thing):
        return {f.name: inner(getattr(thing, f.name), f.name) for f in dataclasses.fields(thing)}
    if isinstance(thing, Module):
        return [repr(thing), inner(dict(thing.state_dict()), "state_dict")]
    if hasattr(thing, "__dict__"):
        return {str(k): inner(v, k) for k, v in vars(thing).items()}
    told = repr(thing)
    if _ADDRESS.search(told):
        raise UnstableError(
            f"{where}, a {type(thing).__name__}, has no description that stays the same from process to process."
        )
    return told


def _add_module(thing: Any, modules: dict[str, str]) -> None:
    """Note the source of the module that a class or function comes from, and of the user's own that it imports."""
    module = inspect.getmodule(thing)
    waiting = [] if module is None else [module]
    while waiting:
        module = waiting.pop()
        file = getattr(module, "__file__", None)
        if _name(module.__name__) in modules or file is None or not Path(file).is_file():
            continue
        source = Path(file).read_bytes()
        modules[_name(module.__name__)] = hashlib.sha256(source).hexdigest()
        if not _installed(Path(file)):
            waiting += [
                m
                for m in _imported(module, source)
                if not _installed(Path(getattr(m, "__file__", None) or "/"))
            ]


def _name(module: str) -> str:
    """A module's name, but for the folder of a project file, which is part of the name it is imported under."""
    return "project" if module.startswith(PROJECT_PREFIX) else module


def _imported(module: ModuleType, source: bytes) -> Iterator[ModuleType]:
    """What a module's source imports, of what is loaded; unweave itself aside."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            full = (
                resolve_name(base, module.__package__)
                if node.level and module.__package__
                else base.lstrip(".")
            )
            names |= {full, *(f"{full}.{alias.name}" for alias in node.names)}
    unweave = __name__.partition(".")[0]
    yield from (sys.modules[n] for n in sorted(names) if n in sys.modules and n.partition(".")[0] != unweave)


def _installed(file: Path) -> bool:
    return any(root in file.resolve().parents for root in _INSTALLED)


def _code(code: CodeType) -> str:
    consts = [
        _code(c) if isinstance(c, CodeType) else repr(sorted(c, key=repr) if isinstance(c, frozenset) else c)
        for c in code.co_consts
    ]
    return hashlib.sha256(repr((code.co_code, consts, code.co_names)).encode()).hexdigest()


def _filled(cell: Any) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True


def _source(thing: Any) -> str:
    try:
        return hashlib.sha256(inspect.getsource(inspect.getmodule(thing) or thing).encode()).hexdigest()
    except (OSError, TypeError):
        code = getattr(thing, "__code__", None)
        return hashlib.sha256(code.co_code if code else repr(thing).encode()).hexdigest()
