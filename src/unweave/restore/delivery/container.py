"""The file `.uwv`: a manifest, then parts in the order in which they are needed, each with its size and checksum.

Layout: the magic bytes, the manifest's length as four bytes (little-endian) and the first 16 bytes of its SHA-256, the
manifest (JSON, packed by zlib), then the parts one after the other. A reader that gets the file from a network never
looks back: whatever a segment needs lies before it.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from ...errors import InputError, IntegrityError
from ...io.files import written_together

MAGIC = b"UWV\x01"
_HEAD = len(MAGIC) + 4 + 16


@dataclass(frozen=True)
class Container:
    """A whole container in memory.

    Attributes:
        manifest: plain JSON that says how the parts are read.
        parts: name -> bytes, in the order of the file.
    """

    manifest: Mapping[str, Any]
    parts: Mapping[str, bytes] = field(repr=False)

    def head(self) -> bytes:
        """Everything before the first part."""
        listed = [[name, len(data), _digest(data).hex()] for name, data in self.parts.items()]
        told = zlib.compress(
            json.dumps({**self.manifest, "parts": listed}, separators=(",", ":")).encode(), 9
        )
        return MAGIC + struct.pack("<I", len(told)) + _digest(told) + told

    def sizes(self) -> dict[str, int]:
        """Bytes of the manifest and of each kind of part ("stream/0" is of the kind "stream")."""
        sizes = {"manifest": len(self.head())}
        for name, data in self.parts.items():
            kind = name.partition("/")[0]
            sizes[kind] = sizes.get(kind, 0) + len(data)
        return sizes

    def until(self, last: str) -> int:
        """Bytes from the beginning to the end of a part."""
        total = len(self.head())
        for name, data in self.parts.items():
            total += len(data)
            if name == last:
                break
        return total

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all.

        Raises:
            StorageError: if it cannot be written; nothing is left.
        """
        needs = len(self.head()) + sum(map(len, self.parts.values()))
        with written_together(Path(path), needs=needs) as (beside,), open(beside, "wb") as file:
            file.write(self.head())
            for data in self.parts.values():
                file.write(data)

    @classmethod
    def read(cls, path: Path) -> Container:
        """Read a whole file, every part checked.

        Raises:
            InputError: if it is none.
            IntegrityError: naming the part that is cut off or changed.
        """
        with opened(path) as file:
            manifest, listed = read_head(file, str(path))
            parts = dict(read_parts(file, listed, str(path)))
        return cls(manifest, parts)


def opened(path: Path) -> BinaryIO:
    """Open a file for reading.

    Raises:
        InputError: if there is none.
    """
    if not Path(path).is_file():
        raise InputError(f"there is no file {path}.")
    return open(path, "rb")


Listed = list[tuple[str, int, str]]


def read_head(file: BinaryIO, name: str) -> tuple[dict[str, Any], Listed]:
    """The manifest, and its parts as (name, bytes, checksum).

    Raises:
        InputError: if this is no container.
        IntegrityError: if the manifest is cut off or changed.
    """
    head = file.read(_HEAD)
    if head[: len(MAGIC)] != MAGIC:
        raise InputError(f"{name} is no delivery (.uwv). Make one by: unweave deliver CLIP --out clip.uwv.")
    if len(head) < _HEAD:
        raise IntegrityError(f"{name} ends within its first {_HEAD} bytes. Fetch the file again.")
    length = struct.unpack("<I", head[len(MAGIC) : len(MAGIC) + 4])[0]
    told = file.read(length)
    if len(told) < length:
        raise IntegrityError(f"{name} ends within its manifest. Fetch the file again.")
    if _digest(told) != head[-16:]:
        raise IntegrityError(f"{name}: the manifest was changed since it was written. Fetch the file again.")
    manifest = json.loads(zlib.decompress(told))
    return manifest, [(part, size, digest) for part, size, digest in manifest.pop("parts")]


def read_parts(file: BinaryIO, listed: Listed, name: str) -> Iterator[tuple[str, bytes]]:
    """Parts in order, read when asked for; each checked before it is handed out.

    Raises:
        IntegrityError: naming the part that is cut off or changed.
    """
    for part, size, digest in listed:
        data = file.read(size)
        if len(data) < size:
            raise IntegrityError(
                f"{name} ends within part {part!r}: {len(data):,} of its {size:,} bytes are there. Fetch the "
                f"file again."
            )
        if _digest(data).hex() != digest:
            raise IntegrityError(
                f"{name}: part {part!r} was changed since it was written. Fetch the file again."
            )
        yield part, data
    if file.read(1):
        raise IntegrityError(f"{name} goes on after its last part. Fetch the file again.")


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()[:16]
