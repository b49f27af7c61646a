"""Run folders: stages kept once finished, hashes of all that went in and came out, one process at a time."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

from torch import Generator

from ..errors import InputError, IntegrityError, StorageError
from ..random import seeded
from .files import file_lock, sha256, sweep_partials, write_text
from .memory import give_back
from .run_record import (
    _FORMAT,
    _LOCK,
    _RECORD,
    _WORK,
    _checksum,
    _hardware,
    _hash,
    _inside,
    _plain,
    _refuse_other,
    _versions,
    read_record,
)


@dataclass
class Stage:
    """One step of a run, inside `RunFolder.stage`.

    Attributes:
        name: unique within the run.
        todo: False if it was finished before: skip the work and read `paths`.
        paths: where its results lie or must be put, in the order they were named.
        work: folder for checkpoints; survives a kill, removed once the stage is finished.
        rng: generator of this stage's own, the same whether or not earlier stages were skipped.
    """

    name: str
    todo: bool
    paths: tuple[Path, ...]
    work: Path
    rng: Generator


@dataclass
class RunFolder:
    """A folder that holds one run; open it with `RunFolder.open`.

    `run.json` holds the command, settings, seed, versions, hardware, the hash of every input and every
    result, and the stages' states. Wall times lie apart, under "times": all else is the same for the same
    run.

    Attributes:
        path: of the folder.
        seed: of the run.
        record: what run.json holds.
        resumed: whether an earlier run left this folder unfinished, or finished.
    """

    path: Path
    seed: int
    record: dict[str, Any] = field(repr=False)
    resumed: bool = False

    @classmethod
    @contextmanager
    def open(
        cls,
        path: Path,
        *,
        settings: Mapping[str, Any],
        inputs: Mapping[str, Path | str],
        seed: int,
        command: Sequence[str] = (),
    ) -> Iterator[RunFolder]:
        """Begin a run in an empty or absent folder, or go on with the one that is there.

        Args:
            path: of the folder.
            settings: plain JSON; must be the same to go on.
            inputs: name -> file or folder (hashed here), or a hash in hexadecimal; must be the same to go on.
            seed: must be the same to go on.
            command: as the user typed it.

        Raises:
            InputError: if another process uses the folder, it holds something else, or settings or inputs
                differ.
            IntegrityError: if an input, a result of a finished stage or run.json changed since it was
                written.
            StorageError: if the folder cannot be written.
        """
        path = Path(path)
        if path.exists() and not path.is_dir():
            raise InputError(f"{path} is a file; a run needs a folder. Give another one.")
        begun = (path / _RECORD).exists()
        if path.exists() and not begun and any(not _ours(p) for p in path.iterdir()):
            raise InputError(
                f"{path} is neither empty nor a run folder (it has no {_RECORD}). Give another one."
            )
        asked = _plain({"settings": dict(settings), "seed": seed}, path)
        with locked(path):
            sweep_partials(path)
            hashes = {name: _hash(name, given) for name, given in inputs.items()}
            if (path / _RECORD).exists():
                record = read_record(path)
                _refuse_other(path, record, asked, hashes, inputs)
                verify(path, record)
                resumed = cls(path, seed, record, resumed=True)
                resumed._sweep()
                yield resumed
                return
            record = {
                "format": _FORMAT,
                "command": list(command),
                **asked,
                "versions": _versions(),
                "hardware": _hardware(),
                "inputs": hashes,
                "stages": {},
                "times": {"began": _now(), "stages": {}},
            }
            run = cls(path, seed, record)
            run._sweep()
            run._write()
            yield run

    @contextmanager
    def stage(self, name: str, *makes: str) -> Iterator[Stage]:
        """One step: do its work if `todo`; it counts as finished when the block ends without an error.

        Args:
            name: unique within the run.
            makes: files or folders it writes, relative to the run folder. Those of an unfinished stage are
                removed before it starts over.

        Raises:
            InputError: if a result lies outside the run folder, or was not written.

        Example:
            >>> import tempfile
            >>> with RunFolder.open(Path(tempfile.mkdtemp()), settings={}, inputs={}, seed=0) as run:
            ...     for _ in range(2):
            ...         with run.stage("greet", "hello.txt") as stage:
            ...             print(stage.todo)
            ...             if stage.todo:
            ...                 write_text(stage.paths[0], "hello")
            True
            False
        """
        inside = [_inside(self.path, made) for made in makes]
        work = self.path / _WORK / _file_name(name)
        rng = seeded(int.from_bytes(hashlib.sha256(f"{self.seed}/{name}".encode()).digest()[:7], "big"))
        known = self.record["stages"].get(name)
        if known is not None and known["state"] == "finished" and list(makes) == known["makes"]:
            yield Stage(name, False, tuple(inside), work, rng)
            return
        for old in inside:
            _remove(old)
        order = list(self.record["stages"])
        for later in order[order.index(name) + 1 :] if name in order else []:
            del self.record["stages"][later]  # it was made from what this stage now makes anew
        self.record["stages"][name] = {"state": "unfinished", "makes": list(makes), "artefacts": {}}
        times = self.record["times"]["stages"].setdefault(name, {"starts": 0, "seconds": None})
        times["starts"] += 1
        times["began"] = _now()
        began = monotonic()
        self._write()
        try:
            work.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"{work} could not be made ({error.strerror}). Make room and run again."
            ) from error
        yield Stage(name, True, tuple(inside), work, rng)
        for made, result in zip(makes, inside, strict=True):
            if not result.exists():
                raise InputError(f"stage {name!r} ended without writing {made!r}, which it promised.")
        artefacts = {
            file.relative_to(self.path).as_posix(): sha256(file) for path in inside for file in _files(path)
        }
        self.record["stages"][name] = {"state": "finished", "makes": list(makes), "artefacts": artefacts}
        times["seconds"] = round(monotonic() - began, 3)
        self._write()
        self._sweep()
        give_back()

    def finished(self, name: str) -> bool:
        """Whether a stage has ended."""
        return name in self.record["stages"] and self.record["stages"][name]["state"] == "finished"

    def undo(self, *names: str) -> None:
        """Take stages as not begun, so that they are made anew."""
        for name in names:
            self.record["stages"].pop(name, None)
        self._write()

    def discard(self, made: str) -> None:
        """Remove a stage's result for good; the run's record says so, and no longer asks for it."""
        gone = _inside(self.path, made)
        for stage in self.record["stages"].values():
            stage["artefacts"] = {
                name: digest
                for name, digest in stage["artefacts"].items()
                if gone not in (self.path / name, *(self.path / name).parents)
            }
        self.record["discarded"] = sorted({*self.record.get("discarded", ()), made})
        self._write()
        _remove(gone)

    def seconds(self, name: str) -> float | None:
        """Wall time of a finished stage's last start; None before it is finished."""
        taken: float | None = self.record["times"]["stages"].get(name, {}).get("seconds")
        return taken

    def _sweep(self) -> None:
        for made in self.record.get("discarded", ()):  # a kill may have come just before
            _remove(_inside(self.path, made))
        unfinished = {
            _file_name(name) for name, entry in self.record["stages"].items() if entry["state"] != "finished"
        }
        work = self.path / _WORK
        for folder in list(work.iterdir()) if work.is_dir() else []:
            if folder.name not in unfinished:
                shutil.rmtree(folder, ignore_errors=True)
        if not unfinished:
            shutil.rmtree(work, ignore_errors=True)

    def _write(self) -> None:
        body = {key: value for key, value in self.record.items() if key != "sha256"}
        self.record["sha256"] = _checksum(body)
        write_text(self.path / _RECORD, json.dumps(self.record, indent=1))


def verify(path: Path, record: Mapping[str, Any]) -> None:
    """Check every result of every finished stage against its hash.

    Raises:
        IntegrityError: naming the file that changed or is gone.
    """
    for name, stage in record["stages"].items():
        if stage["state"] != "finished":
            continue
        for artefact, digest in stage["artefacts"].items():
            file = path / artefact
            if not file.is_file():
                raise IntegrityError(
                    f"{file} is gone; stage {name!r} had written it. Put it back, or delete {path} and run "
                    "again."
                )
            found = sha256(file)
            if found != digest:
                raise IntegrityError(
                    f"{file} has changed since stage {name!r} wrote it (sha256 {digest[:12]}... then, "
                    f"{found[:12]}... "
                    f"now). Put the right file back, or delete {path} and run again."
                )


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process; made if absent. The lock ends with the process, however it ends.

    Raises:
        InputError: if another process holds it.
        StorageError: if it cannot be made.
    """
    with ExitStack() as stack:
        try:
            mine = stack.enter_context(file_lock(folder / _LOCK, wait=False))
        except OSError as error:
            raise StorageError(
                f"{folder} cannot be used for a run ({error.strerror}). Mend that or give another one."
            ) from error
        if not mine:
            raise InputError(f"another run is using {folder}. Wait for it to end, or give another folder.")
        try:
            yield
        finally:
            stack.close()
            with suppress(OSError):
                folder.rmdir()  # succeeds only if nothing was written into it


def _files(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _file_name(stage: str) -> str:
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in stage)


def _ours(path: Path) -> bool:
    return path.name in (_LOCK, _WORK) or path.name.endswith(".partial")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
