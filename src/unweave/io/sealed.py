"""Which examples were deleted, written so that only the holder of a key can tell.

A plain hash of positions hides nothing: of a single example it is found by trying them all.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from base64 import b64decode, b64encode
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import IntegrityError, StorageError

_BYTES = 32


def cache_home() -> Path:
    """Where everything that lasts beyond a run is kept: UNWEAVE_CACHE, or ~/.cache/unweave.

    Raises:
        StorageError: if there is no home folder.
    """
    return _home("UNWEAVE_CACHE", "~/.cache/unweave")


def key(file: Path | None = None) -> bytes:
    """The key in a file, or this user's.

    UNWEAVE_KEY names the file of this user's; else it is ~/.config/unweave/key, else `key` in `cache_home()`.
    Made at the first use, readable by this user only. A run that was stopped goes on under the same key alone.

    Raises:
        StorageError: if it is not there and cannot be made.
        IntegrityError: if the file holds no key.
    """
    if file is not None:
        return _read_or_make(file)
    if os.environ.get("UNWEAVE_KEY"):
        return _read_or_make(Path(os.environ["UNWEAVE_KEY"]).expanduser())
    failed: OSError | None = None
    for file in _places():
        try:
            return _read_or_make(file)
        except StorageError as error:
            failed = failed or error
    raise StorageError(f"{failed} Set UNWEAVE_KEY to a file that can be written and lasts.")


def token(content: bytes) -> str:
    """A hash under the key, 64 hexadecimal digits: the same for the same content, and no other can tell of what."""
    return hmac.new(key(), content, "sha256").hexdigest()


def seal(positions: Tensor, n: int) -> str:
    """A set of positions out of n, as text that `unseal` reads under the same key; one set gives new text each time."""
    chosen = np.zeros(n, dtype=bool)
    chosen[positions.numpy()] = True
    plain, nonce = np.packbits(chosen).tobytes(), secrets.token_bytes(16)
    body = _mixed(plain, nonce)
    return b64encode(nonce + hmac.digest(key(), nonce + body, "sha256") + body).decode()


def unseal(text: str, n: int) -> Tensor | None:
    """The positions, ascending; None if they were sealed under another key, or the text is damaged."""
    try:
        raw = b64decode(text, validate=True)
    except ValueError:
        return None
    nonce, check, body = raw[:16], raw[16:48], raw[48:]
    if len(body) != -(-n // 8) or not hmac.compare_digest(check, hmac.digest(key(), nonce + body, "sha256")):
        return None
    plain = np.frombuffer(_mixed(body, nonce), dtype=np.uint8)
    return torch.from_numpy(np.flatnonzero(np.unpackbits(plain, count=n)))


def _mixed(content: bytes, nonce: bytes) -> bytes:
    stream = hashlib.shake_256(key() + nonce).digest(len(content))
    return (np.frombuffer(content, np.uint8) ^ np.frombuffer(stream, np.uint8)).tobytes()


def _places() -> Iterator[Path]:
    for variable, default in (("XDG_CONFIG_HOME", "~/.config"), ("UNWEAVE_CACHE", "~/.cache/unweave")):
        try:
            home = _home(variable, default)
        except StorageError:
            continue
        yield home / "unweave" / "key" if variable == "XDG_CONFIG_HOME" else home / "key"


def _home(variable: str, default: str) -> Path:
    try:
        return Path(os.environ.get(variable) or default).expanduser()
    except RuntimeError as error:  # neither HOME nor an entry of this user's
        raise StorageError(
            f"this user has no home folder. Set {variable} to a folder that can be written."
        ) from error


def _read_or_make(file: Path) -> bytes:
    try:
        found = file.read_bytes() if file.exists() else _made(file)
    except OSError as error:
        raise StorageError(
            f"the key in {file}, which keeps to you what was deleted, cannot be read or made ({error.strerror})."
        ) from error
    if len(found) != _BYTES:
        raise IntegrityError(f"{file} holds no key of {_BYTES} bytes. Remove it, and one is made.")
    return found


def _made(file: Path) -> bytes:
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(f".{file.name}.{os.getpid()}.{secrets.token_hex(4)}.partial")
    handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(secrets.token_bytes(_BYTES))
        try:
            os.link(beside, file)  # of two at once the second takes what the first made
        except FileExistsError:
            pass
    finally:
        beside.unlink(missing_ok=True)
    return file.read_bytes()
