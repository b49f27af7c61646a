"""Command-line flags made from the methods' own dataclasses, so that names, defaults and help exist once."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import tyro

from ..catalogue import Method, find
from ._fields import field_prose, is_givable, settings_of


def with_methods(
    options: type[Any], chains: Sequence[str], *, also: Sequence[Method] = (), skip: Sequence[str] = ()
) -> type[Any]:
    """`options` with one group of flags more for each method named in `chains` ("unprune+salun") and in `also`.

    Fields named in `skip` get no flag: the command sets them itself.
    """
    named = (*chain_methods(chains), *also)
    return with_groups(options, ((key_of(m.name), m.name, options_of(m.cls, skip)) for m in named))


def with_groups(options: type[Any], groups: Iterable[tuple[str, str, type[Any]]]) -> type[Any]:
    """`options` with further groups of flags: (attribute, prefix of the flags, dataclass)."""
    extra = []
    for key, shown, group in groups:
        if dataclasses.fields(group):
            named: Any = Annotated[group, tyro.conf.arg(name=shown)]
            extra.append((key, named, dataclasses.field(default_factory=group)))
    made = dataclasses.make_dataclass(options.__name__, extra, bases=(options,), kw_only=True, frozen=True)
    made.__doc__ = options.__doc__
    return made


def chain_methods(chains: Iterable[str]) -> list[Method]:
    """Each method named in the chains, once."""
    found = (find(name) for chain in chains for name in chain.split("+"))
    return list({method.name: method for method in found}.values())


def key_of(name: str) -> str:
    """The attribute that holds the flags of the method of this name."""
    return f"of_{name.replace('-', '_')}"


def options_of(cls: type[Any], skip: Sequence[str] = ()) -> type[Any]:
    """A dataclass of those fields of `cls` that a command line can give, with their prose as help.

    Of an optimiser, those of its arguments.
    """
    prose = field_prose(cls)
    fields: list[Any] = []
    for name, hint, default in settings_of(cls):
        if default is dataclasses.MISSING or name in skip:
            continue
        if dataclasses.is_dataclass(default) and not isinstance(default, type):
            inner = options_of(type(default))
            if dataclasses.fields(inner):
                fields.append((name, inner, dataclasses.field(default_factory=_values(inner, default))))
        elif is_givable(hint):
            annotated: Any = Annotated[hint, tyro.conf.arg(help=prose.get(name, ""))]
            fields.append((name, annotated, dataclasses.field(default=default)))
    made = dataclasses.make_dataclass(f"{cls.__name__}Options", fields, kw_only=True, frozen=True)
    made.__doc__ = (inspect.getdoc(cls) or "").split("\n")[0]
    made.__module__ = cls.__module__
    return made


def _values(group: type[Any], default: Any) -> Any:
    return lambda: group(**{
        f.name: _values(type(f.default_factory()), getattr(default, f.name))()
        if f.default_factory is not dataclasses.MISSING
        else getattr(default, f.name)
        for f in dataclasses.fields(group)
    })  # fmt: skip
