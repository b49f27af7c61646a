"""What data, recipes and their code are, as hashes: whatever could change a model changes its hash."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import random
import re
import types
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import CodeType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..types import Data
from .files import sha256_of
from .source import PROJECT_PREFIX, is_users, name_of, users_modules

__all__ = ["PROJECT_PREFIX", "UnstableError", "describe", "described", "fingerprint"]

_ADDRESS = re.compile(r"\bat 0x[0-9a-fA-F]+")
_PLAIN = (bool, int, float, complex, str, bytes, type(None), type(...))


class UnstableError(InputError):
    """Something has no description that another process would find again, so nothing can be cached under it."""


def fingerprint(data: Data[Any], side: str = "") -> str:
    """SHA-256 of all examples in order, with the task and batch size.

    Args:
        data: read once.
        side: what the data are called ("training", "held-out") where NaN or infinity in them is to be refused.

    Raises:
        InputError: if `side` is given and an example holds NaN or infinity; it names the first of them.
        UnstableError: if the task, or something in a batch, has no description that another process would find again.
    """
    task = (
        repr(data.task)
        if dataclasses.is_dataclass(data.task) and not _ADDRESS.search(repr(data.task))
        else ""
    )
    digest = hashlib.sha256(f"{task or describe(data.task, 'task')} {data.batch_size} {len(data)}".encode())

    lost: list[int] = []
    for i, batch in enumerate(data.batches()):
        _feed(digest, batch)
        lost += [i * data.batch_size + row for row in sorted(_not_finite(batch))] if side else []
    if lost:
        many = "example holds" if len(lost) == 1 else "examples hold"
        raise InputError(
            f"{side} data: {len(lost):,} of {len(data):,} {many} NaN or infinity, at position "
            f"{', '.join(map(str, lost[:5]))}{' ...' if len(lost) > 5 else ''} (from 0). Mend or leave out what is not "
            "finite."
        )
    return digest.hexdigest()


def digest_of(example: Any) -> bytes:
    """SHA-256 of one example: tensors, arrays, numbers and text, in tuples, lists and mappings.

    Raises:
        UnstableError: if something in it has no description that stays the same.
    """
    digest = hashlib.sha256()
    _feed(digest, example)
    return digest.digest()


def _feed(digest: Any, node: Any) -> None:
    if isinstance(node, Tensor):
        digest.update(f"{node.dtype}{tuple(node.shape)}".encode())
        digest.update(_bytes(node))
    elif isinstance(node, Mapping):
        for key in sorted(node):
            digest.update(str(key).encode())
            _feed(digest, node[key])
    elif isinstance(node, (list, tuple)):
        for item in node:
            _feed(digest, item)
    elif isinstance(node, _PLAIN):
        digest.update(repr(node).encode())
    else:
        digest.update(describe(node, "example").encode())


def _not_finite(node: Any) -> set[int]:
    """Rows of a batch that hold NaN or infinity."""
    if isinstance(node, np.ndarray) and node.dtype.kind == "f":
        node = torch.from_numpy(np.ascontiguousarray(node))
    if isinstance(node, Tensor) and node.is_floating_point():
        lost = ~node.isfinite()
        rows = lost.reshape(len(lost) if lost.dim() else 1, -1).any(1)
        return set(rows.nonzero()[:, 0].tolist()) if bool(rows.any()) else set()
    parts = node.values() if isinstance(node, Mapping) else node if isinstance(node, (list, tuple)) else ()
    return set().union(*map(_not_finite, parts))


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
        return hashlib.sha256(_bytes(thing)).hexdigest()
    if inspect.isfunction(thing) or inspect.isclass(thing):
        return f"{thing.__qualname__} {_source(thing)[:16]}"
    if thing is None or isinstance(thing, (bool, int, float, str)):
        return thing
    told = repr(thing)
    if not _ADDRESS.search(told) and "..." not in told:
        return told
    try:
        return f"{type(thing).__qualname__} {describe(thing)[:16]}"
    except UnstableError:
        return type(thing).__qualname__


def describe(recipe: Any, name: str = "recipe") -> str:
    """SHA-256 of all that could change what a recipe makes of the same data, the same in every process.

    That is: its fields, the contents of the files and folders that they name, arrays and weights by their bytes, what
    its functions close over, their defaults and the plain globals that they read, the source of its classes and
    functions and of all the user's own modules that theirs import, and the versions of unweave and torch.

    Args:
        recipe: or anything else.
        name: what it is called where a part has no such description.

    Raises:
        UnstableError: naming a part that has no such description.
    """
    from .. import __version__

    found = _Description()
    told = found.of(recipe, name)
    return _digest([told, *found.sources(), f"unweave {__version__}", f"torch {torch.__version__}"])


class _Description:
    """Descriptions of the parts of one thing; a part that is met again is described once."""

    def __init__(self) -> None:
        self.known: dict[int, tuple[Any, str]] = {}  # the part is held, so that its id is not used again
        self.files: dict[str, Path] = {}

    def sources(self) -> list[str]:
        """Name and hash of each module of the user's own."""
        return [
            f"{name} {hashlib.sha256(file.read_bytes()).hexdigest()}"
            for name, file in sorted(self.files.items())
        ]

    def of(self, thing: Any, where: str) -> str:
        """One part, in a digest or a few words."""
        if isinstance(thing, str):
            return repr(thing) + _contents(thing)
        if isinstance(thing, _PLAIN):
            return f"{type(thing).__name__} {thing!r}"
        if id(thing) not in self.known:
            self.known[id(thing)] = (thing, f"within itself: {type(thing).__qualname__}")
            self.known[id(thing)] = (thing, _digest(self._parts(thing, where)))
        return self.known[id(thing)][1]

    def _parts(self, thing: Any, where: str) -> list[str]:
        if isinstance(thing, Path):
            return ["path", _contents(str(thing)) or str(thing.expanduser().absolute())]
        if isinstance(thing, (Tensor, np.ndarray)):
            return self._array(thing, where)
        if isinstance(thing, Mapping):
            return ["mapping", *(self.of(part, f"{where}.{k}") for k, v in thing.items() for part in (k, v))]
        if isinstance(thing, (set, frozenset)):
            return ["set", *sorted(self.of(v, f"{where}.element") for v in thing)]
        if isinstance(thing, (list, tuple)):
            named = type(thing).__qualname__
            return [named, *(self.of(v, f"{where}.{i}") for i, v in enumerate(thing))]
        if isinstance(thing, partial):
            parts = (thing.func, thing.args, thing.keywords)
            return ["partial", *(self.of(p, f"{where}.{n}") for p, n in zip(parts, _PARTIAL, strict=True))]
        if inspect.ismethod(thing):
            return ["method", self.of(thing.__self__, f"{where}.self"), self.of(thing.__func__, where)]
        if inspect.isfunction(thing):
            return self._function(thing, where)
        if inspect.isclass(thing):
            return self._class(thing, where)
        if isinstance(thing, types.ModuleType):
            return ["module", self._module(thing)]
        return self._object(thing, where)

    def _array(self, thing: Any, where: str) -> list[str]:
        if isinstance(thing, np.ndarray):
            if thing.dtype.hasobject:
                return ["objects", str(thing.shape), self.of(thing.tolist(), where)]
            raw = np.ascontiguousarray(thing).tobytes()
            return ["array", str(thing.dtype), str(thing.shape), hashlib.sha256(raw).hexdigest()]
        try:
            return [
                "tensor",
                str(thing.dtype),
                str(tuple(thing.shape)),
                hashlib.sha256(_bytes(thing)).hexdigest(),
            ]
        except (RuntimeError, NotImplementedError, TypeError) as error:  # sparse or quantized
            raise _unstable(thing, where) from error

    def _function(self, thing: types.FunctionType, where: str) -> list[str]:
        module = inspect.getmodule(thing)
        parts = ["function", self._module(module), thing.__qualname__, _code(thing.__code__)]
        cells = [cell.cell_contents for cell in thing.__closure__ or () if _filled(cell)]
        given = {"closure": cells, "defaults": thing.__defaults__, "keyword defaults": thing.__kwdefaults__}
        parts += [self.of(value, f"{where}.{name}") for name, value in given.items()]
        if module is None or is_users(module):
            for name in sorted(_names(thing.__code__) & set(thing.__globals__)):
                value = thing.__globals__[name]
                if isinstance(value, str):
                    parts.append(f"{name} {value!r}")
                elif isinstance(value, (*_PLAIN, tuple, list, dict, Tensor, np.ndarray, partial)) or (
                    (inspect.isfunction(value) or inspect.isclass(value))
                    and is_users(inspect.getmodule(value))
                ):
                    parts += [name, self.of(value, f"{where}.{name}")]
        return parts

    def _class(self, thing: type, where: str) -> list[str]:
        module = inspect.getmodule(thing)
        parts = ["class", self._module(module), thing.__qualname__]
        if module is None or is_users(module):
            parts += [self.of(base, where) for base in thing.__bases__]
            for name, value in vars(thing).items():
                inner = getattr(value, "__func__", getattr(value, "fget", value))
                if inspect.isfunction(inner) or isinstance(value, (*_PLAIN, Tensor, np.ndarray, tuple, list)):
                    parts += [name, self.of(inner, f"{where}.{name}")] if name not in _NOTES else []
        return parts

    def _module(self, module: types.ModuleType | None) -> str:
        if module is None:
            return ""
        if is_users(module) and name_of(module.__name__) not in self.files:
            self.files |= users_modules(module)
        return name_of(module.__name__)

    def _object(self, thing: Any, where: str) -> list[str]:
        kind = type(thing)
        if isinstance(thing, _DRAWN_FROM):  # what it gives depends on who drew from it before
            raise _unstable(thing, where)
        if inspect.isbuiltin(thing) and isinstance(thing.__self__, types.ModuleType | None):
            return ["builtin", f"{thing.__module__}.{thing.__qualname__}"]
        parts = [self.of(kind, where)]
        own: Callable[..., Any] | None = next(
            (getattr(thing, n) for n in _STATES if getattr(kind, n, None) is not getattr(object, n, None)),
            None,
        )
        state = None
        if own is not None and kind.__module__ != "functools":
            try:
                state = own(4) if own.__name__ == "__reduce_ex__" else own()
            except Exception:  # noqa: BLE001 - code of the user's or of a library
                state = None
        if isinstance(state, tuple) and own is not None and own.__name__ != "__getstate__":
            whole = [list(part) if hasattr(part, "__next__") else part for part in state]
            return [*parts, *(self.of(p, where) for p in whole)]
        if state is not None:
            return [*parts, self.of(state, where)]
        slots = [
            n for c in kind.__mro__ for n in _as_names(vars(c).get("__slots__", ())) if hasattr(thing, n)
        ]
        if hasattr(thing, "__dict__") or slots:
            held = {
                **getattr(thing, "__dict__", {}),
                **{n: getattr(thing, n) for n in slots if n != "__dict__"},
            }
            return [*parts, *(self.of(v, f"{where}.{n}") if n else "" for n, v in held.items()), *held]
        told = repr(thing)
        if _ADDRESS.search(told):
            raise _unstable(thing, where)
        return [*parts, told]


_DRAWN_FROM = (torch.Generator, random.Random, np.random.Generator, np.random.RandomState)
_PARTIAL = ("func", "args", "keywords")
_STATES = ("__reduce_ex__", "__reduce__", "__getstate__")
_NOTES = ("__doc__", "__module__", "__qualname__", "__firstlineno__", "__static_attributes__", "__slots__")
"""Of a class: where it stands, not what it does."""


def _unstable(thing: Any, where: str) -> UnstableError:
    return UnstableError(
        f"{where}, a {type(thing).__name__}, has no description that stays the same from process to process."
    )


def _digest(parts: list[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _contents(path: str) -> str:
    """Hash of the file or folder of that name; "" if none is there.

    A word without a slash names a folder only if files lie in it: "data" beside a folder of folders is but a word.
    """
    if not path or len(path) > 4096 or "\0" in path or "\n" in path:
        return ""
    try:
        place = Path(path).expanduser()
        if place.is_dir() and (set(path) & {"/", "\\"} or any(p.is_file() for p in place.iterdir())):
            return (
                ""
                if place.resolve() in (Path.cwd(), Path.home(), Path("/"))
                else f" folder {sha256_of(place)}"
            )
        return f" file {sha256_of(place)}" if place.is_file() else ""
    except (OSError, RuntimeError):
        return ""


def _bytes(tensor: Tensor) -> memoryview | bytes:
    if not tensor.numel():
        return b""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _as_names(slots: Any) -> tuple[str, ...]:
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _names(code: CodeType) -> set[str]:
    inner = [c for c in code.co_consts if isinstance(c, CodeType)]
    return set(code.co_names).union(*map(_names, inner))


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
