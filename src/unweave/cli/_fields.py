"""What settings a class has: their names, hints, defaults and prose, and which of them a command line can give."""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

_PLAIN = (bool, int, float, str, Path, type(None))


def settings_of(cls: type[Any]) -> Iterator[tuple[str, Any, Any]]:
    """(name, hint, default) of a dataclass's fields, or of the arguments of an optimiser that are its own."""
    if dataclasses.is_dataclass(cls):
        hints = typing.get_type_hints(cls)
        yield from ((f.name, hints[f.name], default_of(f)) for f in dataclasses.fields(cls))
        return
    try:
        hints = typing.get_type_hints(cls.__init__)
    except NameError:  # a class of another package, with hints we cannot read
        hints = {}
    for name, argument in inspect.signature(cls).parameters.items():
        if name in ("params", "base", "lr") or argument.default is argument.empty:
            continue
        hint = hints.get(name)
        yield name, hint if is_givable(hint) else _hint_of(argument.default), argument.default


def field_prose(cls: type[Any]) -> dict[str, str]:
    """Field -> its line in the docstring's Attributes (or Args) section."""
    section = re.search(r"(?:Attributes|Args):\n(.*?)(?:\n\n\S|\n\S|\Z)", inspect.getdoc(cls) or "", re.S)
    prose: dict[str, str] = {}
    name = ""
    for line in section.group(1).split("\n") if section else ():
        start = re.match(r"    (\w+): (.*)", line)
        if start:
            name = start.group(1)
            prose[name] = start.group(2).strip()
        elif name and line.strip():
            prose[name] += " " + line.strip()
    return prose


def default_of(field: dataclasses.Field[Any]) -> Any:
    """A field's default; MISSING if it has none."""
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default


def is_givable(hint: Any) -> bool:
    """Whether a value of this kind can be typed on a command line."""
    origin = typing.get_origin(hint)
    if origin is Literal:
        return True
    if origin in (typing.Union, types.UnionType):
        return all(is_givable(arg) for arg in typing.get_args(hint))
    if origin is tuple:
        return all(arg is Ellipsis or is_givable(arg) for arg in typing.get_args(hint))
    return hint in _PLAIN


def _hint_of(default: Any) -> Any:
    if isinstance(default, tuple) and all(isinstance(v, float) for v in default):
        return tuple[(float,) * len(default)]  # type: ignore[misc]
    return type(default) if isinstance(default, (bool, int, float, str)) else Any
