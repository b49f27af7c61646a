"""Writing that survives a crash, and hashes that notice a flipped bit."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ..errors import StorageError

_PARTIAL = ".partial"


@contextmanager
def written_beside(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success rename it over `path`, synced; on failure remove it.

    A reader sees the old file or the whole new one, never a part.

    Raises:
        StorageError: if the file cannot be written.

    Example:
        >>> import tempfile; folder = Path(tempfile.mkdtemp())
        >>> with written_beside(folder / "a.txt") as beside: _ = beside.write_text("whole")
        >>> (folder / "a.txt").read_text(), len(list(folder.iterdir()))
        ('whole', 1)
    """
    with written_together(path) as (beside,):
        yield beside


@contextmanager
def written_together(*paths: Path, gone: tuple[Path, ...] = (), needs: int = 0) -> Iterator[tuple[Path, ...]]:
    """Like `written_beside` for files of one folder that belong together: all are replaced, or none.

    Args:
        paths: to write; each must have been written at its temporary path when the block ends.
        gone: files to remove once the others are in place.
        needs: bytes that will be written, to be named where there is no room; 0 where that is not known.

    Raises:
        StorageError: if one cannot be written; then all old files are still there.
    """
    folder = paths[0].parent
    room = _hidden(paths[0])  # a folder, so that what a library leaves in it at a kill is swept with it
    besides = tuple(room / path.name for path in paths)
    former = {path: room / f"{path.name}.former" for path in paths if path.exists()} if len(paths) > 1 else {}
    replaced: list[Path] = []
    try:
        room.mkdir(parents=True, exist_ok=True)
        yield besides
        for beside in besides:
            _sync(beside)
        for path, backup in former.items():
            os.link(path, backup)
        for beside, path in zip(besides, paths, strict=True):
            os.replace(beside, path)
            replaced.append(path)
        _sync(folder)
    except BaseException as error:
        if len(replaced) < len(paths):
            for path in replaced:
                if path in former:
                    os.replace(former[path], path)
                else:
                    path.unlink(missing_ok=True)
        if isinstance(error, (OSError, SafetensorError)) and not isinstance(error, StorageError):
            raise _unwritten(paths[0], error, needs) from error
        raise
    finally:
        shutil.rmtree(room, ignore_errors=True)
    for path in gone:
        path.unlink(missing_ok=True)


@contextmanager
def folder_written_beside(path: Path) -> Iterator[Path]:
    """Give an empty folder beside `path`; on success sync its files and put it in the place of `path`.

    An old folder at `path` is moved aside first and comes back if the new one cannot take its place.

    Raises:
        StorageError: if something cannot be written.
    """
    beside, aside = _hidden(path), _hidden(path, ".former")
    try:
        beside.mkdir(parents=True)
        yield beside
        for file in sorted(beside.rglob("*")):
            _sync(file)
        _sync(beside)
        if path.exists():
            os.replace(path, aside)
        try:
            os.replace(beside, path)
        except BaseException:
            if aside.exists():
                os.replace(aside, path)
            raise
        _sync(path.parent)
    except (OSError, SafetensorError) as error:
        if isinstance(error, StorageError):
            raise
        raise _unwritten(path, error) from error
    finally:
        for leftover in (beside, aside):
            shutil.rmtree(leftover, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all.

    Raises:
        StorageError: if it cannot be written; the old file is still there.
    """
    with written_beside(path) as beside:
        beside.write_text(text, encoding="utf-8")


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write one safetensors file, whole or not at all; tensors must not share storage.

    Raises:
        StorageError: if it cannot be written; the old file is still there.
    """
    with written_together(path, needs=bytes_of(tensors)) as (beside,):
        save_file(dict(tensors), beside, metadata=None if metadata is None else dict(metadata))


def bytes_of(tensors: Mapping[str, Tensor]) -> int:
    """What tensors take in a file or in memory."""
    return sum(t.numel() * t.element_size() for t in tensors.values())


def sweep_partials(folder: Path) -> list[Path]:
    """Remove temporary files and folders that a killed process left below `folder`; returns them.

    Only for a folder that no other process is writing to.
    """
    orphans = sorted(folder.rglob(f".*{_PARTIAL}"))
    for orphan in orphans:
        _remove(orphan)
    return orphans


def sweep_dead_partials(folder: Path, start: str) -> None:
    """Remove temporary files of `folder` whose process is gone and whose final name begins with `start`.

    Also for folders that several processes share: what a living one is writing stays.
    """
    for orphan in folder.glob(f".{start}*{_PARTIAL}"):
        writer = orphan.name.removesuffix(_PARTIAL).removesuffix(".former").rpartition(".")[2]
        if writer.isdigit() and not alive(int(writer)):
            _remove(orphan)


def _remove(orphan: Path) -> None:
    if orphan.is_dir() and not orphan.is_symlink():
        shutil.rmtree(orphan, ignore_errors=True)
    else:
        orphan.unlink(missing_ok=True)


def in_bytes(count: int) -> str:
    """A size a person would say.

    Example:
        >>> [in_bytes(n) for n in (0, 1, 1023, 1024, 5_452_595, 3_221_225_472)]
        ['0 bytes', '1 byte', '1,023 bytes', '1.0 KiB', '5.2 MiB', '3.0 GiB']
    """
    if count < 1024:
        return f"{count:,} byte{'s' * (count != 1)}"
    power = min((count.bit_length() - 1) // 10, 4)
    return f"{count / 1024**power:,.1f} {' KMGT'[power]}iB"


def _free(path: Path) -> int:
    folder = next(p for p in path.absolute().parents if p.exists())
    return shutil.disk_usage(folder).free


def alive(process: int) -> bool:
    """Whether a process of this machine with this number is there."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextmanager
def file_lock(file: Path, *, wait: bool) -> Iterator[bool]:
    """Hold a lock file for this process, its folder made if absent. The lock ends with the process, however it ends.

    The file is removed at the end: those who wait for it notice, and make another.

    Yields:
        Whether it is held; False only without `wait`, if another holds it.

    Raises:
        OSError: if it cannot be made.
    """
    import fcntl

    while True:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:  # the folder was removed between the two
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(handle)
            yield False
            return
        if _same_file(handle, file):
            break
        os.close(handle)
    try:
        yield True
    finally:
        file.unlink(missing_ok=True)
        os.close(handle)


def _same_file(handle: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(file))
    except FileNotFoundError:
        return False


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, or of a folder: of its files' relative names and hashes, in order of name.

    Hidden temporary files of a write under way are left out.
    """
    if path.is_file():
        return sha256(path)
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        inner = file.relative_to(path)
        if not any(part.endswith(_PARTIAL) for part in inner.parts):
            digest.update(f"{inner.as_posix()}\0{sha256(file)}\n".encode())
    return digest.hexdigest()


def _hidden(path: Path, tag: str = "") -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}{tag}{_PARTIAL}")


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _unwritten(path: Path, error: Exception, needs: int = 0) -> StorageError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    size = f"; {in_bytes(needs)} are needed, {in_bytes(_free(path))} are free" if needs else ""
    return StorageError(
        f"{path} could not be written ({reason}{size}). No part-written file was left; mend that and run again."
    )


def strict_json(record: Any) -> str:
    """Plain records as indented JSON that every reader takes; NaN and infinity are null.

    Example:
        >>> print(strict_json({"low": float("-inf"), "n": 3}), end="")
        {
         "low": null,
         "n": 3
        }
    """
    return json.dumps(_finite(record), indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
