"""Writing that survives a crash, and hashes that notice a flipped bit."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PARTIAL = ".partial"


@contextmanager
def written_beside(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success sync it and rename it over `path`, on failure remove it.

    A reader sees the old file or the whole new one, never a part.

    Example:
        >>> import tempfile; folder = Path(tempfile.mkdtemp())
        >>> with written_beside(folder / "a.txt") as beside: _ = beside.write_text("whole")
        >>> (folder / "a.txt").read_text(), len(list(folder.iterdir()))
        ('whole', 1)
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}{_PARTIAL}")
    try:
        yield beside
        with open(beside, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all."""
    with written_beside(path) as beside:
        beside.write_text(text, encoding="utf-8")


def sweep_partials(folder: Path) -> list[Path]:
    """Remove temporary files that a killed process left below `folder`; returns what was removed."""
    orphans = sorted(p for p in folder.rglob(f".*{_PARTIAL}") if p.is_file())
    for orphan in orphans:
        orphan.unlink(missing_ok=True)
    return orphans


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
