"""Ids of examples: found where the user's data set keeps them, checked once, and compared as text."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch.utils.data import ConcatDataset, Dataset, Subset

from ..errors import InputError


def ids_of(examples: Any) -> list[str]:
    """Ids of a data set's examples as text; [] where it has none, and positions take their place.

    An attribute `ids` is taken; of a `Subset`, a `random_split` or a `ConcatDataset`, those of the data sets inside.

    Args:
        examples: a data set.

    Raises:
        InputError: if `ids` is a method, or not one distinct id an example; if only some parts of a ConcatDataset
            have ids; or if the data set wraps another one that has ids in a way that cannot be followed.
    """
    held = getattr(examples, "ids", None)
    if held is not None:
        return checked_ids(held, len(examples), f"ids of {type(examples).__name__}")
    if isinstance(examples, Subset):
        inner = ids_of(examples.dataset)
        return [inner[int(at)] for at in examples.indices] if inner else []
    if isinstance(examples, ConcatDataset):
        return _of_parts(examples)
    for name, part in getattr(examples, "__dict__", {}).items():
        if isinstance(part, Dataset) and ids_of(part):
            raise InputError(
                f"a {type(examples).__name__} has no ids of its own, and the data set in its {name!r} has: which "
                "example is whose cannot be told. Give it an attribute `ids`, one id an example."
            )
    return []


def checked_ids(ids: Any, n: int, what: str) -> list[str]:
    """Ids as text, one an example and no two alike.

    Args:
        ids: list, tuple, array, tensor, column or range.
        n: examples.
        what: begins the message.

    Raises:
        InputError: if they are no such sequence of text or whole numbers, not n, or not distinct.
    """
    if callable(ids) or isinstance(ids, (str, bytes, Mapping)) or not hasattr(ids, "__iter__"):
        kind = "method" if callable(ids) else type(ids).__name__
        raise InputError(f"{what} must be a list with one id an example; got a {kind}. Make it a list.")
    names = as_names(ids, what)
    if len(names) != n:
        raise InputError(f"{what}: there are {len(names):,} ids for {n:,} examples. Give one an example.")
    repeated = [name for name, times in Counter(names).items() if times > 1]
    if repeated:
        raise InputError(
            f"{what}: {len(repeated):,} ids belong to several examples: {_few(repeated)}. Give each example an id of "
            "its own; a person's examples are told by a column (`columns`, --where)."
        )
    return names


def as_names(ids: Iterable[Any], what: str) -> list[str]:
    """Ids as text: text as it is, whole numbers of any kind in decimal figures.

    Raises:
        InputError: if one is neither: a fraction, bytes, a truth value, nothing.
    """
    return [_name(value, at, what) for at, value in enumerate(_listed(ids))]


def likeness(name: str) -> str:
    """What two names share that a reader would take for one: case, composition of accents, ./ and backslashes."""
    plain = unicodedata.normalize("NFKC", name.strip().replace("\\", "/")).casefold()
    while plain.startswith("./"):
        plain = plain[2:]
    return plain.removesuffix(".0").lstrip("0") or plain


def told_apart(name: str, known: Mapping[str, str]) -> str:
    """An id that is not there, with the one that looks alike, where `known` (by likeness) has one."""
    near = known.get(likeness(name))
    if near is None:
        return name
    same = unicodedata.normalize("NFC", near) == unicodedata.normalize("NFC", name)
    shown = ascii(near) if same else repr(near)
    return f"{name} (looks like {shown})"


def _name(value: Any, at: int, what: str) -> str:
    if isinstance(value, str):
        return str(value)
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:  # 0-d tensors and numpy's scalars
        value = value.item()
    if isinstance(value, float):
        cure = (
            f"give {value:.0f} as a whole number or text"
            if value.is_integer()
            else "give whole numbers or text"
        )
        raise InputError(
            f"{what}: {value!r}, at position {at}, is a fraction, and no id is; {cure}. pandas makes fractions of "
            "whole numbers beside empty cells."
        )
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        cure = " Give value.decode()." if isinstance(value, bytes) else ""
        raise InputError(
            f"{what}: {str(value)[:60]!r}, at position {at}, is a {type(value).__name__}; an id is text or a whole "
            f"number.{cure}"
        )
    return str(value)


def _of_parts(examples: ConcatDataset[Any]) -> list[str]:
    sets: list[Any] = list(examples.datasets)
    parts = [ids_of(part) for part in sets]
    bare = [at for at, (ids, part) in enumerate(zip(parts, sets, strict=True)) if len(part) and not ids]
    if len(bare) < len(parts) and bare:
        raise InputError(
            f"of the {len(parts)} data sets in a ConcatDataset {len(bare)} have no ids (the first is number {bare[0]}) "
            "and the others have. Give all of them an attribute `ids`."
        )
    return (
        checked_ids([i for ids in parts for i in ids], len(examples), "ids of a ConcatDataset")
        if not bare
        else []
    )


def _listed(values: Any) -> Iterable[Any]:
    listed = values.tolist() if hasattr(values, "tolist") else values
    return listed if isinstance(listed, Iterable) else [listed]


def _few(names: Sequence[str], most: int = 10) -> str:
    shown = ", ".join(name if len(name) <= 80 else f"{name[:80]}..." for name in names[:most])
    return f"{shown} and {len(names) - most:,} more" if len(names) > most else shown
