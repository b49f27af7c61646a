"""Masks on disk: one bit a position, with the shapes and a checksum in the header."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import InputError, IntegrityError
from ..masks.mask import Mask
from .files import write_tensors

_KEY = "unweave.masks.mask"


def save_mask(mask: Mask, path: Path) -> None:
    """Write a mask as packed bits, 1/32 of the weights in float32 and a header, whole or not at all.

    Raises:
        StorageError: if the file cannot be written.
    """
    path = Path(path)
    bits = {name: _pack(alive) for name, alive in mask.keep.items()}
    shapes = {name: list(alive.shape) for name, alive in mask.keep.items()}
    header = {"shapes": shapes, "sha256": _digest(bits, shapes)}
    write_tensors(path, bits, {_KEY: json.dumps(header)})


def load_mask(path: Path) -> Mask:
    """Read what `save_mask` wrote.

    Raises:
        InputError: if there is no such file.
        IntegrityError: if the file is damaged, or is not a mask.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"there is no mask file {path}. Give the path of a file that unweave wrote.")
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})[_KEY])
            bits = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return Mask(_unpack_all(bits, header))
    except (
        SafetensorError,
        KeyError,
        ValueError,
        TypeError,
        AttributeError,
        OverflowError,
        RecursionError,
    ) as error:
        raise IntegrityError(
            f"{path} is not a whole mask file ({_short(error)}). Write it again, or use a copy."
        ) from error


def _unpack_all(bits: Mapping[str, Tensor], header: Any) -> dict[str, Tensor]:
    shapes = header["shapes"]
    if set(shapes) != set(bits):
        raise ValueError("its header names other parameters than it holds")
    if header["sha256"] not in (_digest(bits, shapes), _digest(bits)):  # the latter: of earlier versions
        raise ValueError("its bits differ from those that were written")
    return {name: _unpack(bits[name], shapes[name]) for name in shapes}


def _pack(alive: Tensor) -> Tensor:
    return torch.from_numpy(np.packbits(alive.detach().cpu().contiguous().numpy().reshape(-1)))


def _unpack(bits: Tensor, shape: Any) -> Tensor:
    if not isinstance(shape, list) or any(type(side) is not int or side < 0 for side in shape):
        raise ValueError(f"{shape} is no shape")
    n = prod(shape)
    if bits.dtype != torch.uint8 or bits.ndim != 1 or len(bits) != -(-n // 8):
        raise ValueError(f"{tuple(bits.shape)} bytes cannot hold a mask of shape {shape}")
    return torch.from_numpy(np.unpackbits(bits.numpy(), count=n).astype(bool)).reshape(shape)


def _digest(bits: Mapping[str, Tensor], shapes: Mapping[str, Any] | None = None) -> str:
    digest = hashlib.sha256()
    for name in sorted(bits):
        digest.update(f"{name}\0{len(bits[name])}\0".encode())
        digest.update(bits[name].contiguous().view(-1).view(torch.uint8).numpy().data)
    if shapes:
        digest.update(json.dumps(shapes, sort_keys=True).encode())
    return digest.hexdigest()


def _short(error: Exception) -> str:
    return " ".join((str(error) or type(error).__name__).split())[:200]
