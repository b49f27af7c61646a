"""Sparse tensors on disk: the values that live, and one bit a position, the bits run through zlib.

A bit mask alone takes 1/16 of a 16-bit tensor; at 90 % zeros zlib halves that. Of 2:4 weights it takes 0.65 bits a
weight, less than two bits of index for each weight that lives.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..masks.mask import Mask

BITS = "//bits"
"""Ends the name of the tensor of bits that belongs to a tensor of values."""

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def pack(tensors: Mapping[str, Tensor], mask: Mask | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors to write in place of these, and the record by which `unpack` gives them back to the bit.

    A tensor for which that takes more bytes stays as it is, unless the mask names it.

    Args:
        tensors: on the CPU, contiguous.
        mask: which weights live; a living weight that is zero is kept as a value, so that the mask can be read again.

    Returns:
        The tensors; and {"shapes": name -> shape of each that is packed, "masked": names of the mask}.
    """
    keep = {} if mask is None else mask.keep
    packed: dict[str, Tensor] = {}
    shapes: dict[str, list[int]] = {}
    for name, tensor in tensors.items():
        if name not in keep and not tensor.is_floating_point():
            packed[name] = tensor
            continue
        alive = _raw(tensor) != 0  # by bits: -0.0 is a value
        if name in keep:
            alive |= keep[name].cpu().reshape(-1)
        bits = zlib.compress(np.packbits(alive.numpy()).tobytes(), 9)
        if name not in keep and int(alive.sum()) * tensor.itemsize + len(bits) >= tensor.nbytes:
            packed[name] = tensor
            continue
        shapes[name] = list(tensor.shape)
        packed[name] = _raw(tensor)[alive].view(tensor.dtype)
        packed[name + BITS] = torch.from_numpy(np.frombuffer(bits, dtype=np.uint8).copy())
    return packed, {"shapes": shapes, "masked": sorted(name for name in keep if name in shapes)}


def unpack(packed: Mapping[str, Tensor], record: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors that `pack` was given.

    Raises:
        KeyError, TypeError, ValueError: if the record does not describe these tensors.
    """
    shapes = record["shapes"]
    tensors = {n: t for n, t in packed.items() if n not in shapes and n.removesuffix(BITS) not in shapes}
    for name, shape in shapes.items():
        values = packed[name]
        raw, there = _raw(values), alive(packed, record, name)  # which says whether the shape can be right
        whole = raw.new_zeros(prod(shape))
        whole[there.reshape(-1)] = raw
        tensors[name] = whole.view(values.dtype).reshape(shape)
    return tensors


def alive(packed: Mapping[str, Tensor], record: Mapping[str, Any], name: str) -> Tensor:
    """Which positions of a packed tensor hold a value, bool of its shape.

    Raises:
        KeyError, TypeError, ValueError: if the record does not describe these tensors.
    """
    shape = record["shapes"][name]
    if not isinstance(shape, list) or any(type(side) is not int or side < 0 for side in shape):
        raise ValueError(f"{shape} is no shape")
    held, size = packed[name + BITS], prod(shape)
    if held.dtype != torch.uint8 or held.ndim != 1:
        raise ValueError(f"the bits of {name} are no bytes")
    reader = zlib.decompressobj()
    try:
        raw = reader.decompress(held.numpy().tobytes(), -(-size // 8) + 1)  # no more than can be right
    except zlib.error as error:
        raise ValueError(f"the bits of {name} are damaged ({error})") from error
    if len(raw) != -(-size // 8) or not reader.eof:
        raise ValueError(f"the bits of {name} do not fit its shape")
    found = np.unpackbits(np.frombuffer(raw, dtype=np.uint8), count=size).astype(bool)
    if int(found.sum()) != packed[name].numel():
        raise ValueError(f"{name} has {packed[name].numel()} values for {int(found.sum())} positions")
    return torch.from_numpy(found).reshape(shape)


def bytes_packed(tensors: Mapping[str, Tensor]) -> int:
    """Bytes that tensors take when packed, without the file's header."""
    return sum(t.nbytes for t in pack(tensors)[0].values())


def _raw(tensor: Tensor) -> Tensor:
    """A tensor's bits as whole numbers, flat; complex numbers have none of their own, and count as they are."""
    flat = tensor.reshape(-1)
    kind = _INTEGERS.get(tensor.itemsize)
    return flat if kind is None or tensor.is_complex() or tensor.dtype == torch.bool else flat.view(kind)
