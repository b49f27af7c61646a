"""Every setting is checked by its own annotation: choices, numbers and kinds, in one place.

A class of settings says what it takes where it says what it has:

    @settings
    class Ascent:
        lr: Positive = 1e-3
        norms: Literal["train", "frozen"] = "frozen"

Optimisers and modules, whose settings are arguments, put `@checked` on `__init__`. The command line's flags, the cards
and the errors read the same annotations. NaN and infinity pass nowhere; a number that may be negative is a `Number`.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import inspect
import math
import numbers
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache, wraps
from typing import Annotated, Any, Literal, ParamSpec, TypeVar, Union, overload

from typing_extensions import get_protocol_members, is_protocol

from .errors import InputError

C = TypeVar("C", bound=type)
P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, kw_only=True)
class Range:
    """Where a number must lie, for `Annotated[float, Range(above=0)]`; ends that are None are open.

    Attributes:
        above: the number is larger than this.
        at_least: the number is this or larger.
        below: the number is smaller than this.
        at_most: the number is this or smaller.
        why: what the number is, as a sentence for the error's end ("It is the share of weights that may move.").
    """

    above: float | None = None
    at_least: float | None = None
    below: float | None = None
    at_most: float | None = None
    why: str = ""

    def __contains__(self, value: float) -> bool:
        return (
            (self.above is None or value > self.above)
            and (self.at_least is None or value >= self.at_least)
            and (self.below is None or value < self.below)
            and (self.at_most is None or value <= self.at_most)
        )

    def __str__(self) -> str:
        ends = (
            (getattr(self, name), name.replace("_", " "))
            for name in ("above", "at_least", "below", "at_most")
        )
        return " and ".join(f"{word} {end:g}" for end, word in ends if end is not None) or "any finite number"


Positive = Annotated[float, Range(above=0)]
NonNegative = Annotated[float, Range(at_least=0)]
Number = Annotated[float, Range()]
"""May be negative."""
Share = Annotated[float, Range(at_least=0, at_most=1)]
SomeShare = Annotated[float, Range(above=0, at_most=1)]
"""A share that is not nothing: (0, 1]."""
Part = Annotated[float, Range(at_least=0, below=1)]
"""A share that leaves something: [0, 1)."""
Inner = Annotated[float, Range(above=0, below=1)]
"""A share strictly between nothing and all: (0, 1)."""
Count = Annotated[int, Range(at_least=1)]
Whole = Annotated[int, Range(at_least=0)]


@overload
def settings(cls: C, /) -> C: ...
@overload
def settings(*, kw_only: bool = True) -> Callable[[C], C]: ...
@typing.dataclass_transform(frozen_default=True, kw_only_default=True)
def settings(cls: Any = None, /, *, kw_only: bool = True) -> Any:
    """Make a frozen dataclass that checks every field by its annotation, then runs its own `__post_init__`.

    `__post_init__` is left for what two fields say together.

    Args:
        cls: the class.
        kw_only: False lets fields be given by position, for small values such as NM(2, 4).

    Raises:
        InputError: at construction, if a field is not what its annotation says.
    """

    def make(cls: Any) -> Any:
        together = getattr(cls, "__post_init__", None)  # its own, or what its base says of two fields

        def __post_init__(self: Any) -> None:
            check(type(self), {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.init})
            if together is not None:
                together(self)

        cls.__post_init__ = __post_init__
        return dataclass(frozen=True, kw_only=kw_only)(cls)

    return make if cls is None else make(cls)


def checked(init: Callable[P, R]) -> Callable[P, R]:
    """Check the arguments of a constructor or function by their annotations before it runs.

    Raises:
        InputError: at the call, if an argument is not what its annotation says.
    """
    signature = inspect.signature(init)
    owner = init.__qualname__.removesuffix(".__init__").rpartition("<locals>.")[2]

    @wraps(init)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        given = signature.bind(*args, **kwargs).arguments
        check(init, given, owner=owner)
        return init(*args, **kwargs)

    return call


def check(annotated: Any, values: Mapping[str, Any], *, owner: str = "") -> None:
    """Raise InputError at the first value that is not what `annotated`, a class or function, says of its name.

    Args:
        annotated: whose annotations are read.
        values: name -> value; names without an annotation pass.
        owner: shown before the name; the class's own name unless given.
    """
    expected = hints(annotated)
    for name, value in values.items():
        if name in expected and not _fits(value, expected[name]):
            raise InputError(_message(f"{owner or annotated.__name__}.{name}", value, expected[name]))


def refuse_idle(of: Any, *names: str, when: str) -> None:
    """Refuse settings that would do nothing beside others: for `__post_init__`, where those others are known.

    Args:
        of: the settings.
        names: fields that are not read; at their defaults they pass, for nobody asked for them.
        when: what makes them idle, as the end of a sentence ("with optimizer='adam'", "since soup is a function").

    Raises:
        InputError: at the first of them that is not at its default.
    """
    defaults = {f.name: f.default for f in dataclasses.fields(of)}
    for name in names:
        if getattr(of, name) != defaults[name]:
            raise InputError(
                f"{type(of).__name__}.{name}={getattr(of, name)!r} would do nothing {when}. "
                f"Leave it at {defaults[name]!r}."
            )


@cache
def hints(annotated: Any) -> dict[str, Any]:
    """Name -> annotation with its ranges, of a class's fields or a function's arguments.

    Raises:
        TypeError: if an annotation cannot be resolved when the program runs, as one imported for type checkers only.
    """
    try:
        return typing.get_type_hints(annotated, include_extras=True)
    except NameError as error:
        raise TypeError(
            f"{annotated.__qualname__}: an annotation names {error.name!r}, which is not there at run time. "
            "Import it outside TYPE_CHECKING, so that settings can be checked."
        ) from error


def described(annotation: Any) -> str:
    """What an annotation takes, in words for cards and errors.

    Example:
        >>> described(SomeShare), described(Literal["train", "frozen"]), described(Positive | None)
        ('above 0 and at most 1', '"train" or "frozen"', 'above 0, or None')
    """
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        ranges = [str(extra) for extra in args[1:] if isinstance(extra, Range)]
        whole = "a whole number " if args[0] is int and ranges else ""
        return whole + " and ".join(ranges) if ranges else described(args[0])
    if origin is Literal:
        return " or ".join(f'"{a}"' if isinstance(a, str) else repr(a) for a in args)
    if origin in (Union, types.UnionType):
        return ", or ".join(described(a) for a in args)
    if origin is tuple and args[-1:] == (Ellipsis,):
        return f"a tuple, each {described(args[0])}"
    if origin is tuple:
        return f"a tuple ({'; '.join(described(a) for a in args)})"
    if origin is collections.abc.Callable or annotation is collections.abc.Callable:
        return "something to call"
    if origin is type:
        return "a class"
    names = {
        bool: "True or False",
        int: "a whole number",
        float: "a finite number",
        str: "text",
        type(None): "None",
    }
    return names.get(annotation) or _kind(origin or annotation)


def _message(name: str, value: Any, annotation: Any) -> str:
    told = f"{name} must be {described(annotation)}; got {value!r}."
    choices = [a for a in _literals(annotation) if isinstance(a, str)]
    near = get_close_matches(value, choices, n=1) if isinstance(value, str) else []
    if near:
        return f'{told} Did you mean "{near[0]}"?'
    why = next((r.why for r in _ranges(annotation) if r.why), "")
    return f"{told} {why}".rstrip()


def _fits(value: Any, annotation: Any) -> bool:
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is Any or isinstance(annotation, TypeVar):
        return True
    if origin is Annotated:
        return _fits(value, args[0]) and all(value in r for r in args[1:] if isinstance(r, Range))
    if origin is Literal:
        return any(type(value) is type(choice) and value == choice for choice in args)
    if origin in (Union, types.UnionType):
        return any(_fits(value, a) for a in args)
    if origin is tuple:
        return isinstance(value, tuple) and _fits_tuple(value, args)
    if isinstance(origin, type) and issubclass(origin, collections.abc.Mapping):
        return isinstance(value, origin) and all(
            _fits(k, args[0]) and _fits(v, args[1]) for k, v in value.items()
        )
    if origin in (collections.abc.Sequence, list):
        return (
            isinstance(value, origin) and not isinstance(value, str) and all(_fits(v, args[0]) for v in value)
        )
    return _is(value, origin or annotation)


def _fits_tuple(value: tuple[Any, ...], args: tuple[Any, ...]) -> bool:
    if args[-1:] == (Ellipsis,):
        return all(_fits(v, args[0]) for v in value)
    return len(value) == len(args) and all(_fits(v, a) for v, a in zip(value, args, strict=True))


def _is(value: Any, kind: Any) -> bool:
    if kind is None or kind is type(None):
        return value is None
    if kind is float:
        return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
    if kind is int:
        return isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if kind is collections.abc.Callable:
        return callable(value)
    if is_protocol(kind):
        return all(hasattr(value, member) for member in members(kind))
    return not isinstance(kind, type) or isinstance(value, kind)


def members(protocol: type[Any]) -> tuple[str, ...]:
    """What a protocol (or a class, taken as one) asks for: names of its public methods and attributes, sorted."""
    if not is_protocol(protocol):
        return tuple(sorted(name for name in dir(protocol) if not name.startswith("_")))
    return tuple(sorted(get_protocol_members(protocol)))


def _ranges(annotation: Any) -> list[Range]:
    own = [a for a in typing.get_args(annotation) if isinstance(a, Range)]
    return own + [r for a in typing.get_args(annotation) if not isinstance(a, Range) for r in _ranges(a)]


def _literals(annotation: Any) -> list[Any]:
    args = typing.get_args(annotation)
    return list(args) if typing.get_origin(annotation) is Literal else [c for a in args for c in _literals(a)]


def _kind(kind: Any) -> str:
    name = getattr(kind, "__name__", str(kind))
    article = "an" if name[0] in "AEIOUaeiou" else "a"
    if is_protocol(kind):
        return f"{article} {name} (with {', '.join(members(kind))})"
    return f"{article} {name}"
