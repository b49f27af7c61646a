"""Weights in several files, with an index that says which tensor lies in which."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from ..errors import IntegrityError

INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
"""Names of such an index in a model's folder."""


def shards_of(index: Path) -> dict[str, list[str]]:
    """File name -> names of its tensors, as an index says.

    Raises:
        IntegrityError: if it is damaged, or names a file that is not beside it, by a plain name, and no link.
    """
    try:
        told = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        if not isinstance(told, dict) or not told or not all(isinstance(file, str) for file in told.values()):
            raise ValueError("its weight_map names no files")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise IntegrityError(
            f"{index} is not a whole index of weights ({_short(error)}). Copy it again."
        ) from error
    files: dict[str, list[str]] = {}
    for name, file in told.items():
        files.setdefault(file, []).append(name)
    for file in files:
        if (
            file != Path(file).name
            or "\\" in file
            or file in ("", ".", "..")
            or (index.parent / file).is_symlink()
        ):
            raise IntegrityError(
                f"{index} names the file {file[:120]!r}, which is not a plain name beside it, so it was not read."
            )
        if not (index.parent / file).is_file():
            raise IntegrityError(f"{index} names the file {file[:120]!r}, which is missing. Copy it beside.")
    return files


def read_shards(index: Path, read: Callable[[Path], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Every tensor of the files that an index names.

    Args:
        index: the file.
        read: reads one of them.

    Raises:
        IntegrityError: if a file holds other tensors than the index says.
    """
    tensors: dict[str, Tensor] = {}
    for file, names in shards_of(index).items():
        held = read(index.parent / file)
        if set(held) != set(names):
            odd = sorted(set(held) ^ set(names))
            raise IntegrityError(
                f"{index.parent / file} does not hold what {index.name} says: {', '.join(odd[:5])}"
                f"{f' and {len(odd) - 5} more' if len(odd) > 5 else ''}. Copy all files again."
            )
        tensors |= held
    return tensors


def _short(error: Exception) -> str:
    return " ".join((str(error) or type(error).__name__).split())[:200]
