"""The record of what was deleted from a model, in its folder: the next request must not put it back.

`unweave_deleted.json` holds keyed fingerprints of the deleted examples, and of some that were kept: where none of these
is found again, the data set names its examples otherwise than it did, and nothing can be concluded from it.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from ..errors import InputError, IntegrityError
from .files import write_text
from .identities import SIZE, By, require_key

RECORD = "unweave_deleted.json"
WITNESSES = 64
"""Kept examples in a record."""
_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Deleted:
    """What earlier requests took out of a model.

    Attributes:
        key: name of the key behind the fingerprints.
        by: what the examples are known by.
        requests: how many there were.
        gone: fingerprints of the deleted examples, distinct, ascending.
        kept: fingerprints of some examples that stayed.
    """

    key: str
    by: By
    requests: int
    gone: tuple[bytes, ...]
    kept: tuple[bytes, ...]

    def write(self, folder: Path) -> None:
        """Write it into a model's folder."""
        body = {
            "format": _FORMAT, "key": self.key, "by": self.by, "requests": self.requests,
            "gone": _packed(self.gone), "kept": _packed(self.kept),
        }  # fmt: skip
        write_text(folder / RECORD, json.dumps({**body, "sha256": _checksum(body)}, indent=1) + "\n")


def read_deleted(model: Path) -> Deleted | None:
    """The record beside a model's weights, or in its folder; None if nothing was deleted from it.

    Raises:
        IntegrityError: if it is damaged.
    """
    file = (model if model.is_dir() else model.parent) / RECORD
    if not file.is_file():
        return None
    try:
        body = json.loads(file.read_text(encoding="utf-8"))
        if body.pop("sha256") != _checksum(body):
            raise ValueError("its checksum does not match")
        if body["format"] != _FORMAT:
            raise ValueError(f"it has format {body['format']!r}; this version reads {_FORMAT}")
        if body["by"] not in get_args(By):
            raise ValueError(f"examples are known by {body['by']!r}")
        return Deleted(
            key=str(body["key"]), by=body["by"], requests=int(body["requests"]),
            gone=_unpacked(body["gone"]), kept=_unpacked(body["kept"]),
        )  # fmt: skip
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise IntegrityError(
            f"{file}, which says what was deleted from the model, is damaged ({reason}). Copy the folder again: "
            "without it, what was deleted would be trained on again."
        ) from error


def find(record: Deleted, by: By, prints: Sequence[bytes], key: bytes, where: str) -> list[int]:
    """Positions of the deleted examples that are still in the data, ascending; nothing of those that are gone.

    Args:
        record: what was deleted.
        by: what the examples of the data are known by.
        prints: fingerprint of each.
        key: they were made with.
        where: the record, in words.

    Raises:
        InputError: if the record was made with another key, or the data names its examples otherwise than it did.
    """
    require_key(record.key, key, where)
    if record.by != by:
        words = {"id": "their ids", "content": "their content"}
        raise InputError(
            f"{where} knows the deleted examples by {words[record.by]}, but the data set now gives them "
            f"{'ids' if by == 'id' else 'no ids'}, so they cannot be kept out. Give the data set as it was."
        )
    there = set(prints)
    if record.kept and 2 * sum(k in there for k in record.kept) < len(record.kept):
        raise InputError(
            f"{where} knows {len(record.kept)} examples that were kept, and most of them are not in this data: their "
            f"{'ids' if by == 'id' else 'contents (another preprocessing?)'} have changed, or it is another data set. "
            "Which examples were deleted cannot be told. Give the data set as it was."
        )
    gone = set(record.gone)
    return [i for i, one in enumerate(prints) if one in gone]


def _packed(prints: Sequence[bytes]) -> str:
    return base64.b64encode(b"".join(prints)).decode()


def _unpacked(text: str) -> tuple[bytes, ...]:
    raw = base64.b64decode(text, validate=True)
    if len(raw) % SIZE:
        raise ValueError("a fingerprint is cut short")
    return tuple(raw[i : i + SIZE] for i in range(0, len(raw), SIZE))


def _checksum(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
