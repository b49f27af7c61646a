"""Who a training example is, whatever its position: its id in the data set, or its own content where it has none.

Both are only ever kept as keyed fingerprints: without the key nobody can tell whether an example is among them, and
with the key destroyed nobody can any more.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from ..errors import InputError, IntegrityError, StorageError
from ..types import Data
from .content import UnstableError, digest_of

By = Literal["id", "content"]
"""What an example is known by."""
SIZE = 16
"""Bytes of a fingerprint: two of a billion examples agree by chance once in 10^20 data sets."""
_KEY_SIZE = 32


def identities(data: Data[Any], ids: Sequence[Any] | Any = ()) -> tuple[By, list[bytes]]:
    """What each training example is known by, in order: its id as text, or the SHA-256 of what the data set gives.

    Args:
        data: the examples.
        ids: of the examples, by position; content is taken where there are none.

    Raises:
        UnstableError: if there are no ids, and the data set gives other content each time it is read.
    """
    if len(ids):
        listed = ids.tolist() if hasattr(ids, "tolist") else ids
        return "id", [str(i).encode() for i in listed]
    examples: Any = data.examples
    for i in range(min(3, len(data))):
        if digest_of(examples[i]) != digest_of(examples[i]):
            raise UnstableError(
                f"example {i} is another each time it is read (a random transform?), and the data set has no ids, so "
                "nobody can tell later which examples were deleted. Give the data set an attribute `ids`."
            )
    return "content", [digest_of(examples[i]) for i in range(len(data))]


def fingerprints(identity: Iterable[bytes], key: bytes) -> list[bytes]:
    """Keyed fingerprint (HMAC-SHA-256, cut to 16 bytes) of each identity."""
    return [hmac.digest(key, one, "sha256")[:SIZE] for one in identity]


def named(key: bytes) -> str:
    """What a key is called where it was used: 16 hexadecimal digits that do not give it away."""
    return hashlib.sha256(b"unweave key " + key).hexdigest()[:16]


def key_file() -> Path:
    """Where this user's key lies: UNWEAVE_KEY, or unweave/deletions.key in the configuration folder."""
    if given := os.environ.get("UNWEAVE_KEY"):
        return Path(given).expanduser()
    config = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(config).expanduser() / "unweave" / "deletions.key"


def read_key(file: Path | None = None) -> bytes:
    """The key in a file; a random one is made, readable by its owner alone, where there is none.

    Raises:
        StorageError: if it can neither be read nor made.
        IntegrityError: if the file holds no key.
    """
    file = key_file() if file is None else file
    try:
        if not file.exists():
            _make(file)
        key = file.read_bytes()
    except OSError as error:
        raise StorageError(
            f"the key {file}, by which deletions are recorded, can neither be read nor made "
            f"({error.strerror or error}). Name another file by the environment variable UNWEAVE_KEY."
        ) from error
    if len(key) != _KEY_SIZE:
        raise IntegrityError(
            f"{file} holds {len(key)} bytes, but a key has {_KEY_SIZE}. Put the right file back, or name another by "
            "the environment variable UNWEAVE_KEY."
        )
    return key


def _make(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(f".{file.name}.{os.getpid()}.partial")
    handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(handle, secrets.token_bytes(_KEY_SIZE))
        os.fsync(handle)
        with suppress(FileExistsError):  # of two that begin at once, the first one's key is both's
            os.link(beside, file)
    finally:
        os.close(handle)
        beside.unlink()


def require_key(found: str, key: bytes, where: str) -> None:
    """Refuse fingerprints that another key made.

    Raises:
        InputError: saying which key is wanted.
    """
    if found != named(key):
        raise InputError(
            f"{where} names what was deleted under the key {found}, and the key here is {named(key)}, so nobody can "
            "tell which examples these are. Name the file of that key by the environment variable UNWEAVE_KEY."
        )
