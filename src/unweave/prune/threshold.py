"""The k-th largest of many scores, exactly, in about one pass over them and next to no memory."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from functools import reduce

import torch
from torch import Tensor

from ..errors import InputError

_CHUNK = 1 << 18  # scores looked at together: their comparisons stay in cache
_SAMPLE = 1 << 14
_HELD = 1 << 20  # scores gathered for the final selection, at most


def kth_largest(tensors: Sequence[Tensor], k: int) -> float:
    """The k-th largest entry over all tensors, exactly.

    A sample brackets the answer. One pass counts what lies above the bracket and gathers the few entries inside,
    among which the answer is then selected. Should the sample mislead, or many entries be nearly equal, the bracket
    is halved over the ordered float64 numbers until few enough lie inside. Deterministic; nothing is sorted or
    concatenated, and the extra memory is a few megabytes whatever the input's size.

    Args:
        tensors: of floating point, any shapes and devices, without NaN.
        k: from 1 (the largest) to the number of entries.

    Returns:
        The entry itself, exactly (as a Python float).

    Raises:
        InputError: if k is out of range.

    Example:
        >>> kth_largest([torch.tensor([5.0, 1.0]), torch.tensor([[3.0], [5.0]])], 3)
        3.0
    """
    widest = reduce(torch.promote_types, (t.dtype for t in tensors))
    flat = [t.detach().reshape(-1).to(widest) for t in tensors if t.numel()]
    total = sum(t.numel() for t in flat)
    if not 1 <= k <= total:
        raise InputError(f"kth_largest needs k from 1 to {total}, the number of scores; got {k}.")
    low, high = _bracket(flat, k, total)
    for _ in range(3):
        above, inside, found = _look(flat, low, high)
        if above < k <= above + inside:
            if low == high:
                return low
            if found is not None:
                return float(found.kthvalue(inside - (k - above) + 1).values)
            return _bisect(flat, k, low, high)
        elif k <= above:
            low, high = high, math.inf
        else:
            low, high = -math.inf, low
    raise AssertionError("the bracket did not close; is there a NaN among the scores?")


def _bracket(flat: list[Tensor], k: int, total: int) -> tuple[float, float]:
    stride = max(1, total // _SAMPLE) | 1
    picked = torch.cat([t[::stride].double().cpu() for t in flat]).sort(descending=True).values
    share = k / total
    doubt = 4 * math.sqrt(share * (1 - share) / len(picked)) + 2 / len(picked)
    first, last = (int((share - doubt) * len(picked)), int((share + doubt) * len(picked)))
    high = float(picked[first]) if first > 0 else math.inf
    low = float(picked[last]) if last < len(picked) else -math.inf
    return low, high


def _chunks(flat: list[Tensor]) -> Iterator[Tensor]:
    for tensor in flat:
        for start in range(0, len(tensor), _CHUNK):
            yield tensor[start : start + _CHUNK]


def _look(flat: list[Tensor], low: float, high: float) -> tuple[int, int, Tensor | None]:
    """Entries above `high`, entries in [low, high], and the latter themselves unless they are too many."""
    above = inside = 0
    found: list[Tensor] | None = []
    for chunk in _chunks(flat):
        over = chunk > high
        within = (chunk >= low).logical_xor_(over)
        above += int(torch.count_nonzero(over))
        here = int(torch.count_nonzero(within))
        inside += here
        if found is not None and low < high:
            found = [*found, chunk[within]] if inside <= _HELD else None
    return above, inside, torch.cat(found) if found else None


def _bisect(flat: list[Tensor], k: int, low: float, high: float) -> float:
    """The answer, known to lie in [low, high], bit by bit."""
    if _count(flat, low, strictly=True) < k:  # many entries equal the bracket's end: zeros of a pruned layer, say
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
