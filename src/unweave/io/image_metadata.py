"""metadata.csv, metadata.jsonl and metadata.parquet beside images: what is said of each, as text.

Cells are text as they are written: user 012 is not user 12, and an empty cell is an empty text.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import InputError, require
from .ids import likeness, told_apart

METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
"""Names of metadata files, in any case."""
NAME, LABEL = "file_name", "label"
"""Columns with a meaning: the image, relative to the metadata file's folder; and its class."""


@dataclass
class Metadata:
    """What the metadata files of a folder say.

    Attributes:
        columns: name -> image -> text; `file_name` and what refers to other files is left out.
        referred: files that another column names (`*_file_name`, masks say).
    """

    columns: dict[str, dict[str, str]] = field(default_factory=dict)
    referred: set[str] = field(default_factory=set)


def read_metadata(root: Path, files: Sequence[str], images: Sequence[str]) -> Metadata:
    """Read the metadata of a folder of images and check it against what lies there.

    Args:
        root: the folder.
        files: metadata files, relative to it.
        images: relative to it.

    Raises:
        InputError: if a file is damaged, has no column file_name, or is not of the columns of the others beside it;
            if a line names no image, or one that another line names; if an image has no line.
        MissingExtraError: for parquet, if pyarrow is absent.
    """
    told, known, named = Metadata(), set(images), dict[str, str]()
    fold = {likeness(image): image for image in images}
    for file in files:
        rows = _rows(root / file)
        name = _column(root / file, rows, NAME)
        label = _column(root / file, rows, LABEL, needed=False)
        at = PurePosixPath(file).parent
        referring = [c for c in (rows[0] if rows else ()) if c.casefold().endswith(f"_{NAME}")]
        absent = []
        for row in rows:
            image = _place(at, row[name])
            if image not in known:
                absent.append(told_apart(image, fold))
                continue
            if image in named:
                raise InputError(
                    f"{root / file} has a second line for {image}, after {named[image]}. Give each one."
                )
            named[image] = file
            for column in referring:
                told.referred.add(_referred(root, at, row[column], f"{column} in {root / file}"))
            for column, value in row.items():
                if column not in (name, *referring):
                    told.columns.setdefault(LABEL if column == label else column, {})[image] = value
        _refuse(root / file, absent, "lines name a file that is no image of the folder")
    told.referred.discard("")
    if files:
        without = [
            image
            for image in images
            if image not in named and image not in told.referred and _covered(image, files)
        ]
        _refuse(root, without, f"images have no line in {', '.join(files)}")
        _require_alike(root, told.columns, named)
    return told


def _covered(image: str, files: Sequence[str]) -> bool:
    return any(PurePosixPath(image).is_relative_to(PurePosixPath(file).parent) for file in files)


def _require_alike(root: Path, columns: Mapping[str, Mapping[str, str]], named: Mapping[str, str]) -> None:
    for column, values in columns.items():
        lacking = sorted({file for image, file in named.items() if image not in values})
        sides = {PurePosixPath(file).parts[0] for file in lacking} & {
            PurePosixPath(named[i]).parts[0] for i in values
        }
        if sides:
            raise InputError(
                f"{root / lacking[0]} has no column {column!r}, which {named[next(iter(values))]} has. Give all the "
                "same columns."
            )


def _place(at: PurePosixPath, name: str) -> str:
    parts: list[str] = []
    for part in (at / name).parts:
        if part == "..":
            if not parts:
                return name
            parts.pop()
        else:
            parts.append(part)
    return "/".join(parts)


def _referred(root: Path, at: PurePosixPath, name: str, where: str) -> str:
    file = _place(at, name) if name else ""
    if file and not (root / file).is_file() or PurePosixPath(file).is_absolute():
        raise InputError(f"{where} names {name!r}, which is not there. Put the file there, or mend its name.")
    return file


def _rows(path: Path) -> list[dict[str, str]]:
    if path.is_symlink():
        raise InputError(f"{path} is a link, which is not followed. Put the file itself there.")
    content = path.read_bytes()
    readers = {".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}
    rows = readers[path.suffix.casefold()](content, path)
    if not rows:
        raise InputError(f"{path} has no line. Write one for each image, or remove the file.")
    return rows


def _csv(content: bytes, path: Path) -> list[dict[str, str]]:
    reader = csv.reader(io.StringIO(_text(content, path), newline=""), strict=True)
    try:
        lines = [(reader.line_num, row) for row in reader if row]
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}, is not readable as csv ({error}).") from error
    header = [cell.strip() for cell in lines[0][1]] if lines else []
    odd = [str(at) for at, row in lines if len(row) != len(header)]
    if odd:
        raise InputError(
            f"{path} has {len(header)} columns, and another number of cells in line {_few(odd)}. Quote commas inside "
            "cells."
        )
    _distinct(header, path)
    return [dict(zip(header, row, strict=True)) for _, row in lines[1:]]


def _jsonl(content: bytes, path: Path) -> list[dict[str, str]]:
    rows: list[dict[str, str]] = []
    for at, line in enumerate(_text(content, path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            pairs = json.loads(line, parse_int=str, parse_float=str, object_pairs_hook=list)
            # as they are written: a number keeps its spelling
            if not isinstance(pairs, list) or not all(isinstance(p, tuple) for p in pairs):
                raise ValueError("it is no object")
            row = {name: _cell(value) for name, value in pairs}
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}, line {at}, is not readable as JSON ({_short(error)}).") from error
        _distinct([name for name, _ in pairs], path)
        rows.append(row)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return [{name: row.get(name, "") for name in columns} for row in rows]


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(_plain(value), ensure_ascii=False)


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        if value and all(isinstance(item, tuple) for item in value):
            return {name: _plain(item) for name, item in value}
        return [_plain(item) for item in value]
    return value


def _parquet(content: bytes, path: Path) -> list[dict[str, str]]:
    parquet: Any = require("pyarrow.parquet", extra="parquet", purpose=f"reading {path}")
    arrow: Any = require("pyarrow", extra="parquet", purpose=f"reading {path}")
    try:
        rows = parquet.read_table(arrow.BufferReader(content)).to_pylist()
    except Exception as error:  # of many kinds, for a damaged file
        raise InputError(f"{path} is not a readable parquet file ({_short(error)}).") from error
    return [{str(name): "" if value is None else str(value) for name, value in row.items()} for row in rows]


def _column(path: Path, rows: Sequence[Mapping[str, str]], name: str, *, needed: bool = True) -> str:
    columns = list(rows[0])
    found = [column for column in columns if column.casefold() == name]
    if len(found) > 1 or (needed and not found):
        raise InputError(
            f"{path} has {len(found) or 'no'} columns {name}; its columns are {_few(columns)}. Name one {name}, and "
            "separate columns by commas."
        )
    return found[0] if found else ""


def _distinct(header: Sequence[str], path: Path) -> None:
    repeated = [name for name, times in Counter(header).items() if times > 1]
    if repeated or "" in header:
        raise InputError(f"{path} has columns without a name of their own: {_few(repeated or ['(empty)'])}.")


def _text(content: bytes, path: Path) -> str:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text (byte {error.start}). Save it as UTF-8.") from error
    if "\0" in text:
        raise InputError(f"{path} is binary, not text. Save it as UTF-8.")
    return text


def _refuse(where: Path, names: Sequence[str], what: str) -> None:
    if names:
        raise InputError(f"in {where}, {len(names):,} {what}: {_few(names)}. Mend the file, or the folder.")


def _few(names: Sequence[str], most: int = 5) -> str:
    shown = ", ".join(name if len(name) <= 120 else f"{name[:120]}..." for name in names[:most])
    return shown + (f" and {len(names) - most:,} more" if len(names) > most else "")


def _short(error: Exception) -> str:
    return " ".join((str(error) or type(error).__name__).split())[:200]
