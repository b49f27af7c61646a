"""Deletion requests: from ids in a file, class names or a column's value to positions in the training data.

Every function returns positions as int64 [k] in ascending order, whatever the order of the request.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import EmptyDataError, InputError, require
from .ids import as_names, likeness, told_apart

_BINARY = re.compile(
    r"[\x00-\x08\x0b\x0e-\x1f]"
)  # control characters other than tab, newline, form feed, return


def read_ids(path: Path) -> list[str]:
    """Read ids from a .txt, .csv or .parquet file, in the file's order.

    A txt file has one id a line; blank lines and lines that begin with # are skipped. A csv or parquet file
    has a column `id` (in any case), or one column only; a csv of one column may do without a header.

    Raises:
        InputError: if there is no such file, its name ends otherwise, it is not UTF-8 text (txt, csv) or is
            damaged, it has several columns and none is `id`, an id is missing, or there are none at all.
        MissingExtraError: for parquet, if pyarrow is absent.
    """
    readers = {".txt": _read_txt, ".csv": _read_csv, ".parquet": _read_parquet}
    path = Path(path)
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise InputError(
            f"{path} is not a list of ids: its name must end in {', '.join(readers)}; got {path.suffix!r}."
        )
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read the ids in {path} ({error}). Check the path.") from error
    ids = reader(content, path)
    if not ids:
        raise EmptyDataError(f"{path} holds no id. Name at least one example to delete.")
    return ids


def by_ids(ids: Sequence[str | int], data_ids: Sequence[Any] | Tensor) -> Tensor:
    """Positions of the examples with these ids.

    Ids are compared as text, so that 7 in the data and "7" in a file agree.

    Args:
        ids: to delete, in any order.
        data_ids: id of each training example, by position.

    Raises:
        EmptyDataError: if `ids` is empty.
        InputError: if an id is asked for twice, is absent from the data, or belongs to several examples; the
            message has the first ten and the count.

    Example:
        >>> by_ids(["c", "a"], ["a", "b", "c"])
        tensor([0, 2])
    """
    asked = as_names(ids, "the ids to delete")
    if not asked:
        raise EmptyDataError("the request holds no id. Name at least one example to delete.")
    names = as_names(data_ids, "the ids of the data")
    places = dict(zip(names, range(len(names)), strict=True))
    found = torch.tensor([places.get(i, -1) for i in asked], dtype=torch.int64)
    if bool((found < 0).any()):
        absent = list(dict.fromkeys(i for i in asked if i not in places))
        known = {likeness(name): name for name in names}
        shown = [told_apart(name[:200], known) for name in absent[:10]]
        more = f" and {len(absent) - 10} more" if len(absent) > 10 else ""
        head = _heading(asked, absent)
        raise InputError(
            f"{len(absent)} of the {len(asked)} ids to delete are not in the data: {', '.join(shown)}{more}. "
            f"{head}Nothing was changed."
        )
    positions: Tensor = torch.unique(found)  # sorted
    if len(positions) < len(asked):
        _refuse_repeats(asked, "ids are asked for more than once", "Name each once.")
    if len(places) < len(names):
        wanted = set(asked)
        doubtful = [name for name in names if name in wanted]
        cure = "Give each example an id of its own."
        _refuse_repeats(doubtful, "ids to delete belong to several examples", cure)
    return positions


def by_classes(
    classes: Sequence[str | int], labels: Tensor, class_names: Sequence[str] | None = None
) -> Tensor:
    """Positions of all examples of these classes.

    Args:
        classes: names, or numbers (also as text); a name wins over a number.
        labels: class number of each training example, [n].
        class_names: name of each class, by number; None if classes have only numbers.

    Raises:
        EmptyDataError: if `classes` is empty.
        InputError: if a class does not exist, has no example, or is named twice.

    Example:
        >>> by_classes(["dog"], torch.tensor([0, 1, 1, 0]), ["cat", "dog"])
        tensor([1, 2])
    """
    asked = list(_plain(classes))
    if not asked:
        raise EmptyDataError("the request holds no class. Name at least one class to delete.")
    present = set(labels.cpu().numpy().ravel().tolist())
    known = sorted(present | set(range(len(class_names or ()))))
    listed = list(class_names) if class_names is not None else [str(y) for y in known]
    numbers = [_class_number(c, class_names) for c in asked]
    unknown = [str(c) for c, y in zip(asked, numbers, strict=True) if y not in known]
    if unknown:
        raise InputError(
            f"{len(unknown)} of the classes to delete do not exist: {_few(unknown)}. "
            f"There are: {_few(listed, 50)}."
        )
    _refuse_repeats([str(y) for y in numbers], "classes are asked for more than once", "Name each once.")
    bare = [str(c) for c, y in zip(asked, numbers, strict=True) if y not in present]
    if bare:
        raise InputError(f"{len(bare)} of the classes to delete have no training example: {_few(bare)}.")
    return torch.isin(labels.cpu(), torch.tensor(numbers)).nonzero().flatten()


def by_value(column: str, value: Any, columns: Mapping[str, Sequence[Any] | Tensor]) -> Tensor:
    """Positions of all examples that have `value` in a column; compared as text.

    Args:
        column: its name.
        value: to look for.
        columns: column name -> one value an example.

    Raises:
        InputError: if there is no such column, or no example has the value; the message lists what there is.

    Example:
        >>> by_value("owner", 7, {"owner": [7, 8, 7]})
        tensor([0, 2])
    """
    if column not in columns:
        raise InputError(
            f"the data has no column {column!r}. It has: {_few(list(columns), 50) or 'no column at all'}."
        )
    cells = [str(v) for v in _plain(columns[column])]
    found = [at for at, v in enumerate(cells) if v == str(value)]
    if not found:
        held = list(dict.fromkeys(cells))
        raise InputError(
            f"no example has {str(value)[:80]!r} in column {column!r}. "
            f"It holds {len(held)} values: {_few(held)}."
        )
    return torch.tensor(found, dtype=torch.int64)


def _heading(asked: Sequence[str], absent: Sequence[str]) -> str:
    if len(asked) > 1 and absent == [asked[0]]:
        return f"If {asked[0][:80]!r} is the heading of a column, call it id, or remove that line. "
    return ""


def _read_txt(content: bytes, path: Path) -> list[str]:
    lines = (line.strip() for line in re.split(r"\r\n|\r|\n", _text(content, path)))
    return [line for line in lines if line and not line.startswith("#")]


def _read_csv(content: bytes, path: Path) -> list[str]:
    reader = csv.reader(io.StringIO(_text(content, path), newline=""), strict=True)
    try:
        rows = [row for row in reader if row]
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}, is not readable as csv ({error}).") from error
    if not rows:
        return []
    header = [cell.strip() for cell in rows[0]]
    titled = [at for at, cell in enumerate(header) if cell.casefold() == "id"]
    if not titled and any(len(row) > 1 for row in rows):
        raise InputError(
            f"{path} has several columns and none is named id. Its first line is: {_few(header)}."
        )
    at, body = (_one_id(titled, header, path), rows[1:]) if titled else (0, rows)
    ids = [row[at].strip() if len(row) > at else "" for row in body]
    if "" in ids:
        without = [f"row {i + 1}" for i, name in enumerate(ids) if not name]
        raise InputError(
            f"{len(without)} rows of {path} have no id: {_few(without)} (not counting the header)."
        )
    return ids


def _read_parquet(content: bytes, path: Path) -> list[str]:
    parquet: Any = require("pyarrow.parquet", extra="parquet", purpose=f"reading {path}")
    arrow: Any = require("pyarrow", extra="parquet", purpose=f"reading {path}")
    try:
        file = parquet.ParquetFile(arrow.BufferReader(content))
        columns = file.schema_arrow.names
    except Exception as error:  # of many kinds, for a damaged file
        raise InputError(f"{path} is not a readable parquet file ({_short(error)}).") from error
    titled = [at for at, name in enumerate(columns) if name.casefold() == "id"]
    if not titled and len(columns) != 1:
        raise InputError(f"{path} has {len(columns)} columns and none is named id: {_few(columns)}.")
    at = _one_id(titled, columns, path) if titled else 0
    try:
        values = file.read().column(at).to_pylist()
    except Exception as error:
        raise InputError(f"{path} is not a readable parquet file ({_short(error)}).") from error
    wrong = [f"row {at} ({v!r})" for at, v in enumerate(values) if type(v) not in (str, int) or v == ""]
    if wrong:
        raise InputError(f"{len(wrong)} ids of {path} are neither text nor whole numbers: {_few(wrong)}.")
    return [str(v) for v in values]


def _one_id(titled: Sequence[int], header: Sequence[str], path: Path) -> int:
    exact = [at for at in titled if header[at] == "id"]
    if len(titled) > 1 and len(exact) != 1:
        raise InputError(f"{path} has {len(titled)} columns named id: {_few(header)}. Keep one.")
    return (exact or list(titled))[0]


def _short(error: Exception) -> str:
    return " ".join((str(error) or type(error).__name__).split())[:200]


def _text(content: bytes, path: Path) -> str:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text (byte {error.start}). Save it as UTF-8.") from error
    odd = _BINARY.search(text)
    if odd is not None:
        raise InputError(f"{path} is binary, not text (control character {odd.group()!r} at {odd.start()}).")
    return text


def _class_number(asked: str | int, names: Sequence[str] | None) -> int:
    if isinstance(asked, str):
        if names is not None and asked in names:
            if list(names).count(asked) > 1:
                raise InputError(f"several classes are named {asked!r}. Give its number.")
            return list(names).index(asked)
        return int(asked) if re.fullmatch(r"[0-9]{1,18}", asked) else -1
    return int(asked)


def _refuse_repeats(names: list[str], what: str, cure: str) -> None:
    if len(set(names)) < len(names):
        repeated = [name for name, times in Counter(names).items() if times > 1]
        raise InputError(f"{len(repeated)} {what}: {_few(repeated)}. {cure}")


def _plain(values: Any) -> Iterable[Any]:
    listed: Iterable[Any] = values.tolist() if hasattr(values, "tolist") else values
    return listed


def _few(names: Sequence[str], most: int = 10) -> str:
    shown = ", ".join(name if len(name) <= 80 else f"{name[:80]}..." for name in names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
