"""Who a training example is, whatever its position: its id in the data set, or its own content where it has none.

Both are only ever kept as keyed fingerprints: without the key nobody can tell whether an example is among them, and
with the key destroyed nobody can any more.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from ..errors import InputError
from ..types import Data
from .content import UnstableError, digest_of

By = Literal["id", "content"]
"""What an example is known by."""
SIZE = 16
"""Bytes of a fingerprint: two of a billion examples agree by chance once in 10^20 data sets."""


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


def require_key(found: str, key: bytes, where: str) -> None:
    """Refuse fingerprints that another key made.

    Raises:
        InputError: saying which key is wanted.
    """
    if found != named(key):
        raise InputError(
            f"{where} names what was deleted under the key {found}, and the key here is {named(key)}, so nobody can "
            "tell which examples these are. Name the file of that key by the environment variable UNWEAVE_KEY. Of a "
            "model that a ledger served it is fingerprints.key there; unweave forget --ledger takes it by itself."
        )
