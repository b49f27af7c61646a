"""Bytes made shorter without loss, weights rounded and made shorter, label maps made shorter.

Entropy coding is the standard library's: of LZMA, deflate and deflate's Huffman codes alone, whichever is shortest is
taken, and one byte says which. On weights, which have no repetitions, Huffman codes alone win; an arithmetic coder
would save a per cent or two more of them.
"""

from __future__ import annotations

import lzma
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ...errors import IntegrityError

Precision = Literal["fp32", "fp16", "int8"]
State = dict[str, Tensor]
_FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME}]
_SAME, _DENSE, _SPARSE = 0, 1, 2


def shortened(data: bytes) -> bytes:
    """`data` by the shortest of four codes.

    Example:
        >>> len(shortened(bytes(10_000))) < 50, lengthened(shortened(b"abc"))
        (True, b'abc')
    """
    packer = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_HUFFMAN_ONLY)
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15, 9)
    codes = [
        data,
        lzma.compress(data, format=lzma.FORMAT_RAW, filters=_FILTERS),
        deflate.compress(data) + deflate.flush(),
        packer.compress(data) + packer.flush(),
    ]
    which = min(range(len(codes)), key=lambda i: len(codes[i]))
    return bytes([which]) + codes[which]


def lengthened(data: bytes) -> bytes:
    """The inverse of `shortened`.

    Raises:
        IntegrityError: if the bytes are none of it.
    """
    try:
        if data[0] == 0:
            return data[1:]
        if data[0] == 1:
            return lzma.decompress(data[1:], format=lzma.FORMAT_RAW, filters=_FILTERS)
        return zlib.decompress(data[1:], -15)
    except (IndexError, lzma.LZMAError, zlib.error) as error:
        raise IntegrityError(f"packed bytes cannot be read ({error}).") from error


def coded_labels(labels: Tensor, before: Tensor | None = None) -> bytes:
    """A label map as bytes: each frame as what changed since the one before, then shortened.

    Args:
        labels: uint8 [frames, rows, columns].
        before: uint8 [rows, columns], the frame before the first; zeros without.
    """
    first = torch.zeros_like(labels[:1]) if before is None else before[None]
    return shortened((labels ^ torch.cat([first, labels[:-1]])).contiguous().numpy().tobytes())


def read_labels(data: bytes, shape: tuple[int, int, int], before: Tensor | None = None) -> Tensor:
    """The inverse of `coded_labels`.

    Raises:
        IntegrityError: if the bytes do not hold as many labels.
    """
    raw = np.frombuffer(lengthened(data), np.uint8)
    if raw.size != np.prod(shape):
        raise IntegrityError(f"a label map holds {raw.size} labels; {int(np.prod(shape))} are expected.")
    changes = raw.reshape(shape).copy()
    if before is not None:
        changes[0] ^= before.numpy()
    return torch.from_numpy(np.bitwise_xor.accumulate(changes, axis=0))


def coded_weights(
    state: Mapping[str, Tensor], precision: Precision, reference: Mapping[str, Tensor] | None = None
) -> tuple[bytes, State]:
    """Weights as bytes, and as they will be read back.

    fp32 and fp16 are kept by their bytes, most significant bytes together. int8 has one scale an output channel (the
    tensor's first dimension; a vector has one in all), the largest magnitude over 127. With a reference a tensor
    that is the same is one byte; one of which few weights changed is a mask and those; int8 codes the difference, so
    that what did not move is exactly kept.

    Args:
        state: name -> float tensor.
        precision: of the numbers sent.
        reference: the same names and shapes, as the reader has them.

    Returns:
        The bytes, and name -> float32 tensor.
    """
    kinds, held, back = bytearray(), bytearray(), State()
    for name, tensor in state.items():
        known = None if reference is None else reference[name]
        kind, data, back[name] = _coded(tensor.detach().float().cpu(), precision, known)
        kinds.append(kind)
        held += data
    return shortened(bytes(kinds) + bytes(held)), back


def read_weights(
    data: bytes,
    shapes: Mapping[str, Sequence[int]],
    precision: Precision,
    reference: Mapping[str, Tensor] | None = None,
) -> State:
    """The inverse of `coded_weights`: name -> float32 tensor, the same bits.

    Raises:
        IntegrityError: if the bytes do not hold weights of these shapes.
    """
    raw, state = lengthened(data), State()
    at = len(shapes)
    try:
        for kind, (name, shape) in zip(raw[:at], shapes.items(), strict=True):
            known = None if reference is None else reference[name]
            state[name], at = _read(raw, at, kind, tuple(shape), precision, known)
    except (ValueError, struct.error) as error:
        raise IntegrityError(f"weights cannot be read ({error}).") from error
    if at != len(raw):
        raise IntegrityError(f"weights take {at} bytes; {len(raw)} are there.")
    return state


def _coded(tensor: Tensor, precision: Precision, known: Tensor | None) -> tuple[int, bytes, Tensor]:
    if precision == "int8":
        moved = tensor if known is None else tensor - known
        scales = _scales(moved)
        if (
            known is not None
        ):  # finer than a sixteenth of what weights themselves are rounded to is not worth bits
            scales = torch.maximum(scales, _scales(known) / 16)
        codes = (moved / scales).nan_to_num(0.0).round().clamp(-127, 127).to(torch.int8)
        back = codes.float() * scales if known is None else known + codes.float() * scales
        if known is not None and not codes.any():
            return _SAME, b"", known
        return _DENSE, scales.flatten().numpy().astype("<f4").tobytes() + codes.numpy().tobytes(), back
    values = tensor.numpy().astype("<f4" if precision == "fp32" else "<f2")
    back = torch.from_numpy(values.astype(np.float32))
    dense = _planes(values)
    if known is None:
        return _DENSE, dense, back
    changed = (back != known).numpy()
    if not changed.any():
        return _SAME, b"", known
    sparse = np.packbits(changed).tobytes() + _planes(values[changed])
    return (_SPARSE, sparse, back) if len(sparse) < len(dense) else (_DENSE, dense, back)


def _read(
    raw: bytes, at: int, kind: int, shape: tuple[int, ...], precision: Precision, known: Tensor | None
) -> tuple[Tensor, int]:
    if kind == _SAME and known is not None:
        return known, at
    n = int(np.prod(shape))
    if precision == "int8":
        count = shape[0] if len(shape) > 1 else 1
        scales = torch.from_numpy(np.frombuffer(raw, "<f4", count, at).copy()).view(
            -1, *[1] * (len(shape) - 1)
        )
        codes = torch.from_numpy(np.frombuffer(raw, np.int8, n, at + 4 * count).copy()).view(shape)
        moved = codes.float() * scales
        return moved if known is None else known + moved, at + 4 * count + n
    width = 4 if precision == "fp32" else 2
    if kind == _SPARSE and known is not None:
        mask = np.frombuffer(raw, np.uint8, -(-n // 8), at)
        changed = np.unpackbits(mask, count=n).astype(bool).reshape(shape)
        at += mask.size
        back = known.numpy().copy()
        back[changed] = _unplaned(raw, at, int(changed.sum()), width)
        return torch.from_numpy(back), at + width * int(changed.sum())
    if kind != _DENSE:
        raise ValueError(f"kind {kind} of tensor")
    return torch.from_numpy(_unplaned(raw, at, n, width).reshape(shape)), at + width * n


def _scales(tensor: Tensor) -> Tensor:
    if tensor.ndim < 2:
        return tensor.abs().amax().view(1) / 127
    return tensor.abs().amax(dim=tuple(range(1, tensor.ndim)), keepdim=True) / 127


def _planes(values: np.ndarray) -> bytes:
    return values.reshape(-1, 1).view(np.uint8).T[::-1].tobytes()


def _unplaned(raw: bytes, at: int, count: int, width: int) -> np.ndarray:
    planes = np.frombuffer(raw, np.uint8, count * width, at).reshape(width, count)[::-1]
    return np.ascontiguousarray(planes.T).view("<f4" if width == 4 else "<f2").reshape(-1).astype(np.float32)
