"""Coded packets of a track as bytes: a short table, then the packets themselves."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ...errors import IntegrityError


@dataclass(frozen=True)
class Packet:
    """A coded packet.

    Attributes:
        data: its bytes.
        time: when it is shown, in the track's units; of video, the number of its frame.
        order: when it is decoded, in the same units.
        duration: in the same units; 0 where it is not known.
    """

    data: bytes = field(repr=False)
    time: int
    order: int = 0
    duration: int = 0


def packed(packets: Sequence[Packet]) -> bytes:
    """Packets as bytes: how many, their sizes and times as differences, packed by zlib, then their data.

    Example:
        >>> unpacked(packed([Packet(b"ab", 0), Packet(b"c", 2)]))[1].time
        2
    """
    rows = np.array([(len(p.data), p.time, p.order, p.duration) for p in packets], np.int64).reshape(-1, 4)
    table = zlib.compress(np.diff(rows, axis=0, prepend=0).astype("<i8").T.tobytes(), 9)
    return struct.pack("<II", len(packets), len(table)) + table + b"".join(p.data for p in packets)


def unpacked(data: bytes) -> tuple[Packet, ...]:
    """The inverse of `packed`.

    Raises:
        IntegrityError: if the bytes are none of it.
    """
    try:
        count, length = struct.unpack_from("<II", data)
        table = np.frombuffer(zlib.decompress(data[8 : 8 + length]), "<i8").reshape(4, count).T
    except (struct.error, zlib.error, ValueError) as error:
        raise IntegrityError(f"a table of packets cannot be read ({error}).") from error
    rows = np.cumsum(table, axis=0)
    ends = 8 + length + np.cumsum(rows[:, 0])
    if len(rows) and (int(ends[-1]) != len(data) or rows[:, 0].min() < 0):
        raise IntegrityError(f"packets of {int(ends[-1])} bytes are said to be there; there are {len(data)}.")
    return tuple(
        Packet(data[end - size : end], time, order, duration)
        for (size, time, order, duration), end in zip(rows.tolist(), ends.tolist(), strict=True)
    )
