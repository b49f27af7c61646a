"""A hash tree over the fingerprints of a request: its root names the request without naming an example.

Leaves and inner nodes are hashed apart (RFC 6962), and leaves with a salt of the request's own, so that neither two
requests for the same example nor a guess at one can be told by their roots.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence


def leaf(salt: bytes, fingerprint: bytes) -> bytes:
    """The leaf of an example."""
    return hashlib.sha256(b"\x00" + salt + fingerprint).digest()


def root(leaves: Sequence[bytes]) -> bytes:
    """The root over leaves in this order; of none, the hash of nothing."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    level = list(leaves)
    while len(level) > 1:
        level = _up(level)
    return level[0]


def path(leaves: Sequence[bytes], at: int) -> list[tuple[bool, bytes]]:
    """What proves that the leaf at a position belongs to the root: (whether it stands on the left, its neighbour)."""
    found, level = [], list(leaves)
    while len(level) > 1:
        beside = at ^ 1
        if beside < len(level):
            found.append((beside < at, level[beside]))
        level, at = _up(level), at // 2
    return found


def leads_to(one: bytes, proof: Sequence[tuple[bool, bytes]], end: bytes) -> bool:
    """Whether a leaf and its path give this root."""
    for left, beside in proof:
        one = _node(beside, one) if left else _node(one, beside)
    return one == end


def _up(level: list[bytes]) -> list[bytes]:
    pairs = [_node(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
    return pairs + level[len(level) - 1 :] if len(level) % 2 else pairs


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()
