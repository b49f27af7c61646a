"""What a method's name on the command line stands for: the method itself, made from its flags."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from typing_extensions import is_protocol

from ..catalogue import Method, find, methods
from ..errors import InputError
from ..jobs.subject import Subject
from ..settings import hints, members
from ..types import Edit
from ._fields import default_of
from ._flags import key_of
from ._serves import require_serves


def make(method: Method, asked: Any, given: Mapping[str, Any] | None = None) -> Any:
    """Make a method from parsed options; `given` fills fields that a command line cannot (recipe, unlearn, ...)."""
    return build(method.cls, getattr(asked, key_of(method.name), None), given or {})


def build(cls: type[Any], options: Any, given: Mapping[str, Any]) -> Any:
    """Make an object of `cls` from its flags, those that were parsed, and what is given in their place."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        if field.name in given:
            values[field.name] = given[field.name]
        elif options is not None and hasattr(options, field.name):
            value = getattr(options, field.name)
            nested = dataclasses.is_dataclass(value) and not isinstance(value, type)
            values[field.name] = _over(default_of(field), value) if nested else value
        elif default_of(field) is dataclasses.MISSING:
            raise InputError(
                f"{cls.__name__} needs {field.name}, which this command cannot give it. Use it from Python."
            )
    return cls(**values)


def unlearner(chain: str, asked: Any, subject: Subject) -> Edit[Any]:
    """Make the edit that "a+b+c" names: each is the `unlearn` field of the one before."""
    inner: Edit[Any] | None = None
    for name in reversed(chain.split("+")):
        method = find(name)
        require_serves(method, subject)
        given: dict[str, Any] = {}
        fields = {f.name: f for f in dataclasses.fields(method.cls)}
        if "recipe" in fields:
            given["recipe"] = recipe = subject.require_recipe(
                f"{method.name} cannot train as the model was trained"
            )
            _require_steps(method, recipe)
        own = fields.get("unlearn")
        if inner is None and own is not None and default_of(own) is dataclasses.MISSING:
            raise InputError(f"{method.name} runs another method inside: write --method {name}+npo, say.")
        if inner is not None:
            if "unlearn" not in fields:
                wrappers = (
                    m.name for m in methods() if "unlearn" in getattr(m.cls, "__dataclass_fields__", ())
                )
                raise InputError(
                    f"{method.name} wraps no other method, so {chain!r} makes no sense. Wrapping ones: "
                    f"{', '.join(wrappers)}."
                )
            given["unlearn"] = inner
        inner = make(method, asked, given)
    assert inner is not None
    return inner


def _require_steps(method: Method, recipe: Any) -> None:
    """Refuse a recipe that can only train as a whole where a method needs more of it."""
    cls: Any = method.cls
    wanted = hints(cls)["recipe"]
    absent = [n for n in members(wanted) if not hasattr(recipe, n)] if is_protocol(wanted) else []
    if absent:
        raise InputError(
            f"{method.name} needs a recipe with {', '.join(absent)}, as unweave.Supervised has: it begins at initial "
            f"weights, or trains a part. This recipe, a {type(recipe).__name__}, can only train as a whole. Name "
            "retrain, or a method that needs no recipe (unweave list --family unlearn)."
        )


def eraser(name: str, asked: Any) -> Edit[Any]:
    """Make the edit of a pipeline that a name stands for."""
    method = find(name)
    if method.family != "erase" or method.role != "Edit":
        raise InputError(f"{name} does not erase concepts. See: unweave list --family erase.")
    edit: Edit[Any] = make(method, asked)
    return edit


def _over(default: Any, options: Any) -> Any:
    """A dataclass with what was given in place of its own; fields that a command line cannot give stay."""
    given = {}
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        nested = dataclasses.is_dataclass(value) and not isinstance(value, type)
        given[field.name] = _over(getattr(default, field.name), value) if nested else value
    return dataclasses.replace(default, **given)
