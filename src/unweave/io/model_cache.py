"""The folder of trained models: what lies in it, which of it holds data that were deleted since, and removing it.

Models of one recipe on one data set share a folder: SEED.safetensors with SEED.json beside it, SEED.unfinished while
it is trained, SEED.lock while someone trains or reads it, and about.json, which says in words what they are.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import time
from typing import Any

import torch
from torch import Tensor

from ..errors import StorageError
from .files import file_lock, sweep_dead_partials, write_text
from .sealed import seal, token, unseal

ABOUT, DELETED = "about.json", "deleted"


@dataclass(frozen=True)
class Lineage:
    """Which examples models were trained on: those of a data set, without some.

    Attributes:
        base: fingerprint of the data set.
        size: its examples.
        without: positions in it that were left out.
    """

    base: str
    size: int
    without: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))


@dataclass(frozen=True)
class Entry:
    """The models of one recipe on one data set.

    Attributes:
        folder: where they lie.
        recipe: in a few words; "" where it was never noted.
        examples: how many they were trained on; None where that was never noted.
        models: seeds that are finished.
        unfinished: seeds whose training was stopped.
        size: bytes on disk.
        used: seconds since the epoch, of the last use.
        holds: names of the requests whose deleted data were among these examples.
        known: whether it was noted what they were trained on.
    """

    folder: Path
    recipe: str
    examples: int | None
    models: tuple[int, ...]
    unfinished: tuple[int, ...]
    size: int
    used: float
    holds: tuple[str, ...]
    known: bool


@contextmanager
def entry_in_use(folder: Path, seed: int, *, wait: bool = True) -> Iterator[bool]:
    """Hold one model of an entry; of requests at once, one trains and the others wait for it, then read.

    Yields:
        Whether it is held; False only without `wait`, if another process holds it.

    Raises:
        StorageError: if the folder cannot be written.
    """
    with ExitStack() as stack:
        try:
            mine = stack.enter_context(file_lock(folder / f"{seed}.lock", wait=wait))
        except OSError as error:
            raise StorageError(
                f"the folder of trained models {folder} cannot be written ({error.strerror or error}). Mend that, or "
                "name another one (--cache FOLDER, or UNWEAVE_CACHE)."
            ) from error
        yield mine


def note_entry(folder: Path, recipe: str, examples: int, lineage: Lineage | None) -> None:
    """Write down what an entry is, unless that stands there, and that it was used now."""
    about = folder / ABOUT
    sweep_dead_partials(folder, ABOUT)
    told = _read(about)
    if told.get("examples") != examples or (lineage is not None and "base" not in told):
        made_of = {} if lineage is None else {
            "base": lineage.base, "size": lineage.size, "without": seal(lineage.without, lineage.size)
        }  # fmt: skip
        write_text(about, json.dumps({"recipe": recipe, "examples": examples, **made_of}) + "\n")
    else:
        os.utime(about)


def note_deletion(cache: Path, name: str, lineage: Lineage) -> None:
    """Write down that these examples were asked to be deleted: `lineage.without` names them, sealed."""
    file = cache / DELETED / f"{token(lineage.base.encode() + lineage.without.numpy().tobytes())[:16]}.json"
    if not file.exists():
        gone = seal(lineage.without, lineage.size)
        told = {"name": name, "base": lineage.base, "size": lineage.size, "deleted": gone}
        write_text(file, json.dumps(told) + "\n")


def entries(cache: Path, asked: Lineage | None = None) -> list[Entry]:
    """All entries, the largest first.

    Args:
        cache: folder of trained models.
        asked: a deletion that is looked for too, under the name "asked", before or without being written down.
    """
    deletions = [
        d for f in sorted((cache / DELETED).glob("*.json")) if (d := _deletion(_read(f))) is not None
    ]
    if asked is not None:
        deletions.append(("asked", asked))
    folders = sorted(p for p in cache.glob("*") if p.is_dir() and p.name != DELETED) if cache.is_dir() else []
    found = [e for folder in folders if (e := _entry(folder, deletions)) is not None]
    return sorted(found, key=lambda e: (-e.size, e.folder))


def remove(entry: Entry, *, unfinished_only: bool = False, dry_run: bool = False) -> tuple[int, list[int]]:
    """Remove an entry's models, but for those that a living process holds.

    Args:
        entry: to remove.
        unfinished_only: leave what is finished.
        dry_run: remove nothing.

    Returns:
        Bytes freed, and the seeds that another process holds.
    """
    freed, held = 0, []
    locks = {int(p.stem) for p in entry.folder.glob("*.lock") if p.stem.isdigit()}
    for seed in sorted(
        {*entry.unfinished} if unfinished_only else {*entry.models, *entry.unfinished, *locks}
    ):
        with entry_in_use(entry.folder, seed, wait=False) as mine:
            if not mine:
                held.append(seed)
                continue
            parts = [entry.folder / f"{seed}.unfinished"]
            parts += (
                [] if unfinished_only else [entry.folder / f"{seed}.{e}" for e in ("safetensors", "json")]
            )
            freed += sum(map(_size, parts))
            if dry_run:
                continue
            for part in parts:
                shutil.rmtree(part) if part.is_dir() else part.unlink(missing_ok=True)
    if not dry_run:
        sweep_dead_partials(entry.folder, "")
    if not dry_run and {p.name for p in entry.folder.iterdir()} <= {ABOUT}:
        (entry.folder / ABOUT).unlink(missing_ok=True)
        with suppress(OSError):  # another process has begun in it
            entry.folder.rmdir()
    return freed, held


def _entry(folder: Path, deletions: Sequence[tuple[str, Lineage]]) -> Entry | None:
    models, unfinished = (_seeds(folder, ending) for ending in (".safetensors", ".unfinished"))
    about = folder / ABOUT
    if not (models or unfinished or about.exists()):
        return None
    told = _read(about)
    made_of = _lineage(told, "without")
    files = [p for p in folder.rglob("*") if p.is_file()]
    used = max((_mtime(f) for f in files), default=time())
    examples = told.get("examples")
    return Entry(
        folder, str(told.get("recipe", "")), examples if isinstance(examples, int) else None,
        models, unfinished, _size(folder), used, tuple(n for n, gone in deletions if made_of and _holds(made_of, gone)),
        made_of is not None,
    )  # fmt: skip


def _holds(made_of: Lineage, gone: Lineage) -> bool:
    if made_of.base != gone.base or made_of.size != gone.size:
        return False
    return not bool(torch.isin(gone.without, made_of.without).all())


def _deletion(told: Mapping[str, Any]) -> tuple[str, Lineage] | None:
    lineage = _lineage(told, "deleted")
    return None if lineage is None else (str(told.get("name", "")), lineage)


def _lineage(told: Mapping[str, Any], sealed: str) -> Lineage | None:
    base, size, text = (told.get(k) for k in ("base", "size", sealed))
    if not (isinstance(base, str) and isinstance(size, int) and size > 0 and isinstance(text, str)):
        return None
    positions = unseal(text, size)
    return None if positions is None else Lineage(base, size, positions)


def _seeds(folder: Path, ending: str) -> tuple[int, ...]:
    return tuple(sorted(int(p.stem) for p in folder.glob(f"*{ending}") if p.stem.isdigit()))


def _size(path: Path) -> int:
    files = [path] if path.is_file() else list(path.rglob("*")) if path.is_dir() else []
    return sum(f.lstat().st_size for f in files if f.is_file())


def _mtime(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except OSError:  # gone since it was listed
        return 0.0


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
