"""Command-line options made from the methods' own dataclasses, so that names, defaults and help exist once."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
import re
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from ..catalogue import Method, find
from ..errors import InputError

_PLAIN = (bool, int, float, str, Path, type(None))


def parse(options: type[Any], argv: Sequence[str], *, command: str, example: str) -> Any:
    """Parse `argv` into the dataclass `options`; the docstring and an example make the help.

    Exits (SystemExit) with 0 on --help and 2 on wrong use, as tyro does.
    """
    about = f"{inspect.getdoc(options) or ''}".split("\n\nAttributes:")[0]
    return tyro.cli(
        options,
        args=list(argv),
        prog=f"unweave {command}",
        description=f"{about}\n\nExample:\n{example}",
        config=(tyro.conf.AvoidSubcommands,),
    )


def named_methods(argv: Sequence[str], flags: Sequence[str], default: str) -> list[str]:
    """Names given to `--method` and the like, before the rest is parsed: they decide which options there are."""
    found: list[str] = []
    for i, argument in enumerate(argv):
        name, _, value = argument.partition("=")
        if name in flags:
            values = [value] if value else list(_until_flag(argv[i + 1 :]))
            found += [v for given in values for v in given.split(",") if v]
    return found or [default]


def _until_flag(argv: Sequence[str]) -> typing.Iterator[str]:
    for argument in argv:
        if argument.startswith("-"):
            return
        yield argument


def with_methods(
    options: type[Any], chains: Sequence[str], *, also: Sequence[Method] = (), skip: Sequence[str] = ()
) -> type[Any]:
    """`options` with one group of flags more for each method named in `chains` ("unprune+salun") and in `also`.

    Fields named in `skip` get no flag: the command sets them itself.
    """
    extra = []
    for method in (*chain_methods(chains), *also):
        group = options_of(method.cls, skip)
        if dataclasses.fields(group):
            named: Any = Annotated[group, tyro.conf.arg(name=method.name)]
            extra.append((key_of(method), named, dataclasses.field(default_factory=group)))
    made = dataclasses.make_dataclass(options.__name__, extra, bases=(options,), kw_only=True, frozen=True)
    made.__doc__ = options.__doc__
    return made


def chain_methods(chains: Sequence[str]) -> list[Method]:
    """Each method named in the chains, once."""
    found: dict[str, Method] = {}
    for chain in chains:
        for name in chain.split("+"):
            method = find(name)
            found[method.name] = method
    return list(found.values())


def key_of(method: Method) -> str:
    """The attribute that holds a method's flags."""
    return f"of_{method.name.replace('-', '_')}"


def options_of(cls: type[Any], skip: Sequence[str] = ()) -> type[Any]:
    """A dataclass of those fields of `cls` that a command line can give, with their prose as help.

    Of an optimiser, those of its arguments.
    """
    if not dataclasses.is_dataclass(cls):
        return _options_of_call(cls)
    hints = typing.get_type_hints(cls)
    prose = field_prose(cls)
    fields: list[Any] = []
    for field in dataclasses.fields(cls):
        default = _default(field)
        if default is dataclasses.MISSING or field.name in skip:
            continue
        hint = hints[field.name]
        if dataclasses.is_dataclass(default) and not isinstance(default, type):
            inner = options_of(type(default))
            if dataclasses.fields(inner):
                fields.append((field.name, inner, dataclasses.field(default_factory=_values(inner, default))))
        elif _givable(hint):
            annotated: Any = Annotated[hint, tyro.conf.arg(help=prose.get(field.name, ""))]
            fields.append((field.name, annotated, dataclasses.field(default=default)))
    made = dataclasses.make_dataclass(f"{cls.__name__}Options", fields, kw_only=True, frozen=True)
    made.__doc__ = (inspect.getdoc(cls) or "").split("\n")[0]
    made.__module__ = cls.__module__
    return made


def _options_of_call(cls: type[Any]) -> type[Any]:
    try:
        hints = typing.get_type_hints(cls.__init__)
    except NameError:  # a class of another package, with hints we cannot read
        hints = {}
    prose = field_prose(cls)
    fields: list[Any] = []
    for name, parameter in inspect.signature(cls).parameters.items():
        default = parameter.default
        if name in ("params", "base", "lr") or default is parameter.empty:
            continue
        hint = hints.get(name)
        if not _givable(hint):
            hint = _hint_of(default)
        if hint is not None:
            annotated: Any = Annotated[hint, tyro.conf.arg(help=prose.get(name, ""))]
            fields.append((name, annotated, dataclasses.field(default=default)))
    made = dataclasses.make_dataclass(f"{cls.__name__}Options", fields, kw_only=True, frozen=True)
    made.__doc__ = (inspect.getdoc(cls) or "").split("\n")[0]
    made.__module__ = cls.__module__
    return made


def _hint_of(default: Any) -> Any:
    if isinstance(default, tuple) and all(isinstance(v, float) for v in default):
        return tuple[(float,) * len(default)]  # type: ignore[misc]
    return type(default) if isinstance(default, (bool, int, float, str)) else None


def build(cls: type[Any], options: Any, given: Mapping[str, Any]) -> Any:
    """Make the method from parsed options; `given` fills fields a command line cannot (recipe, unlearn, ...)."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        if field.name in given:
            values[field.name] = given[field.name]
        elif options is not None and hasattr(options, field.name):
            value = getattr(options, field.name)
            if dataclasses.is_dataclass(value) and not isinstance(value, type):
                value = _over(_default(field), value)
            values[field.name] = value
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise InputError(
                f"{cls.__name__} needs {field.name}, which this command cannot give it. Use it from Python."
            )
    return cls(**values)


def _over(default: Any, options: Any) -> Any:
    """A dataclass with what was given in place of its own; fields that a command line cannot give stay."""
    given = {}
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        nested = dataclasses.is_dataclass(value) and not isinstance(value, type)
        given[field.name] = _over(getattr(default, field.name), value) if nested else value
    return dataclasses.replace(default, **given)


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default


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


def _values(group: type[Any], default: Any) -> Any:
    return lambda: group(**{
        f.name: _values(type(f.default_factory()), getattr(default, f.name))()
        if f.default_factory is not dataclasses.MISSING
        else getattr(default, f.name)
        for f in dataclasses.fields(group)
    })  # fmt: skip


def _givable(hint: Any) -> bool:
    origin = typing.get_origin(hint)
    if origin is Literal:
        return True
    if origin in (typing.Union, types.UnionType):
        return all(_givable(arg) for arg in typing.get_args(hint))
    if origin is tuple:
        return all(arg is Ellipsis or _givable(arg) for arg in typing.get_args(hint))
    return hint in _PLAIN


def named_run(command: str, settings: Any, *more: Any) -> Path:
    """The run folder of these settings, for users who give none."""
    digest = hashlib.sha256(json.dumps([settings, *map(str, more)], sort_keys=True).encode()).hexdigest()
    return Path("runs") / f"{command}-{digest[:8]}"
