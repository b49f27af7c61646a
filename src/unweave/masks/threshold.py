"""The k-th largest of many scores, exactly, in about one pass over them and next to no memory."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from functools import reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError

_CHUNK = 1 << 17  # scores looked at together: what is computed of them stays in cache
_SAMPLE = 1 << 14  # or a thousandth of the scores, if that is more
_HELD = 1 << 20  # scores gathered for the final selection, or a sixteenth of them, if that is more


def kth_largest(tensors: Sequence[Tensor], k: int) -> float:
    """The k-th largest entry over all tensors, exactly.

    A sample brackets the answer. One pass counts what lies above the bracket and gathers the few entries
    inside, among which the answer is then selected. Should the sample mislead, the bracket is widened; should
    too many entries lie inside, it is halved over the ordered float64 numbers, at most 64 times.
    Deterministic; nothing is sorted or concatenated, and the extra memory is about a hundredth of the
    scores'.

    Args:
        tensors: of floating point, any shapes, without NaN; those of mixed types are copied to the widest.
        k: from 1 (the largest) to the number of entries.

    Returns:
        The entry itself, exactly (as a Python float).

    Raises:
        InputError: if k is out of range.

    Example:
        >>> kth_largest([torch.tensor([5.0, 1.0]), torch.tensor([[3.0], [5.0]])], 3)
        3.0
    """
    filled = [t.detach() for t in tensors if t.numel()]
    total = sum(t.numel() for t in filled)
    if not 1 <= k <= total:
        raise InputError(f"kth_largest needs k from 1 to {total}, the number of scores; got {k}.")
    widest = reduce(torch.promote_types, (t.dtype for t in filled))
    flat = [t.reshape(-1).to(widest) for t in filled]
    stride = max(1, total // max(_SAMPLE, total >> 10)) | 1
    sample = np.sort(torch.cat([t[::stride].double().cpu() for t in flat]).numpy())[::-1]
    held = max(_HELD, total // 16)
    for doubt in (4.0, 64.0, math.inf):
        low, high = _bracket(sample, k / total, doubt)
        above, inside, found = _look(flat, low, high, held)
        if above < k <= above + inside:
            if found is None:
                return low if low == high else _bisect(flat, k, low, high)
            return float(np.partition(found, inside - (k - above))[inside - (k - above)])
    raise AssertionError("the answer lies in no bracket; is there a NaN among the scores?")


def _bracket(sample: np.ndarray[Any, Any], share: float, doubt: float) -> tuple[float, float]:
    """Values of the falling sample `doubt` standard errors on either side of the share."""
    n = len(sample)
    off = n if math.isinf(doubt) else doubt * math.sqrt(share * (1 - share) * n) + 2
    first, last = math.floor(share * n - off), math.ceil(share * n + off)
    return (float(sample[last]) if last < n else -math.inf), (
        float(sample[first]) if first >= 0 else math.inf
    )


def _chunks(flat: list[Tensor]) -> Iterator[Tensor]:
    for tensor in flat:
        for start in range(0, len(tensor), _CHUNK):
            yield tensor[start : start + _CHUNK]


def _look(
    flat: list[Tensor], low: float, high: float, held: int
) -> tuple[int, int, np.ndarray[Any, Any] | None]:
    """Number above `high`; number in [low, high]; and the latter, if low < high and they are few."""
    above = inside = 0
    found: list[np.ndarray[Any, Any]] | None = [] if low < high else None
    room = np.zeros((2, _CHUNK), dtype=bool)
    for chunk in _chunks(flat):
        if chunk.device.type == "cpu" and chunk.dtype in (torch.float32, torch.float64):
            values = chunk.numpy()
            over, within = room[0, : len(values)], room[1, : len(values)]
            bound = values.dtype.type
            np.greater(values, bound(high), out=over)
            above += int(np.count_nonzero(over))
            np.greater_equal(values, bound(low), out=within)
            np.bitwise_xor(over, within, out=within)
            here = int(np.count_nonzero(within))
            if found is not None and here:
                found.append(values[_where(within)])
        else:
            over_here = chunk > high
            within_here = (chunk >= low).logical_xor_(over_here)
            above += int(torch.count_nonzero(over_here))
            here = int(torch.count_nonzero(within_here))
            if found is not None and here:
                found.append(chunk[within_here].double().cpu().numpy())
        inside += here
        if inside > held:
            found = None
    return above, inside, np.concatenate(found) if found else None


def _where(flags: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Positions of the few true flags; eight are passed over at a time."""
    whole = len(flags) // 8 * 8
    octets = np.flatnonzero(flags[:whole].view(np.uint64) != 0)
    near = (octets[:, None] * 8 + np.arange(8)).reshape(-1)
    near = np.concatenate([near, np.arange(whole, len(flags))])
    found: np.ndarray[Any, Any] = near[flags[near]]
    return found


def _bisect(flat: list[Tensor], k: int, low: float, high: float) -> float:
    """The answer, known to lie in [low, high], bit by bit."""
    if (
        _count(flat, low, strictly=True) < k
    ):  # many entries equal the bracket's end: zeros of a pruned layer, say
        return low
    if _count(flat, high) >= k:
        return high
    bottom, top = _key(low), _key(high)
    while bottom < top:
        middle = (bottom + top + 1) // 2
        if _count(flat, _value(middle)) >= k:
            bottom = middle
        else:
            top = middle - 1
    # a comparison rounds the number to the scores' type, and so must the answer be
    return float(torch.tensor(_value(bottom), dtype=flat[0].dtype))


def _count(flat: list[Tensor], value: float, strictly: bool = False) -> int:
    compare = torch.gt if strictly else torch.ge
    return sum(int(torch.count_nonzero(compare(chunk, value))) for chunk in _chunks(flat))


def _key(value: float) -> int:
    """Position of a float64 among all of them, in order."""
    bits: int = struct.unpack("<q", struct.pack("<d", value))[0]
    return bits if bits >= 0 else -(bits & 0x7FFF_FFFF_FFFF_FFFF)


def _value(key: int) -> float:
    bits = key if key >= 0 else (-key) - 0x8000_0000_0000_0000
    return float(struct.unpack("<d", struct.pack("<q", bits))[0])
