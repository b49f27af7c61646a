"""Faults to inject: a disk full at the n-th write, files damaged in every way."""

from __future__ import annotations

import errno
import os
import random
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import mock

_CALLS = ("fsync", "replace", "rename", "link")


class _Counter:
    def __init__(self, fail_at: int | None) -> None:
        self.seen, self.fail_at = 0, fail_at

    def wrap(self, real: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **kwargs: object) -> object:
            self.seen += 1
            if self.seen == self.fail_at:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*args, **kwargs)

        return call


@contextmanager
def disk_full_at(call: int | None) -> Iterator[_Counter]:
    """Fail the n-th fsync, rename or link of this process with ENOSPC, or only count them (None)."""
    counter = _Counter(call)
    with ExitStack() as stack:
        for name in _CALLS:
            stack.enter_context(mock.patch.object(os, name, counter.wrap(getattr(os, name))))
        yield counter


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Make every write past `size` bytes of a file fail, also those of compiled code (EFBIG)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def each_full_disk(action: Callable[[], object]) -> Iterator[Callable[[], object]]:
    """Yield the action once for every fsync, rename and link that it makes, with that one failing.

    `action` must do the same every time it succeeds; it is run once, unharmed, to count.
    """
    with disk_full_at(None) as counter:
        action()
    assert counter.seen > 0, "the action wrote nothing"
    for call in range(1, counter.seen + 1):

        def failing(call: int = call) -> object:
            with disk_full_at(call):
                return action()

        yield failing


def damages(content: bytes, seed: int = 0) -> dict[str, bytes]:
    """A file's bytes, damaged in every way that a reader must notice."""
    rng = random.Random(seed)
    flipped = bytearray(content)
    at = rng.randrange(len(content) // 2, len(content))
    flipped[at] ^= 1 << rng.randrange(8)
    return {
        "empty": b"",
        "one byte": content[:1],
        "half": content[: len(content) // 2],
        "one byte short": content[:-1],
        "one byte more": content + b"\0",
        "random": rng.randbytes(len(content)),
        "zeros": bytes(len(content)),
        "text": b"<html>404 not found</html>",
        "one bit flipped": bytes(flipped),
    }


def contents(folder: Path, but: tuple[str, ...] = ()) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too, with its bytes; `but` are names left out."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in but
    }


def partials(folder: Path) -> list[Path]:
    """Temporary files and folders below a folder."""
    return sorted(folder.rglob(".*.partial"))


def one_line(error: BaseException) -> str:
    """The error's message, after checking that it is one line a person can read."""
    text = str(error)
    assert "\n" not in text, text
    assert 20 < len(text) < 700, text
    return text
