"""Weights files read as named tensors: safetensors with their hashes, pickles as plain tensors only."""

from __future__ import annotations

import hashlib
import json
import re
import warnings
import zipfile
from argparse import Namespace
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import InputError, IntegrityError
from ..masks.mask import Mask
from .files import sha256
from .fitting import Held, is_plain, sets_of_tensors
from .packed import BITS, alive, unpack
from .shards import INDEXES, read_shards
from .told import tell

_KEY = "unweave.model"

_PICKLED = (
    ".pt",
    ".pth",
    ".bin",
    ".ckpt",
    ".tar",
    ".th",
    ".pkl",
    ".pickle",
    ".model",
    ".chkpt",
    ".checkpoint",
)

PACKED = "packed.safetensors"
"""Name of a packed file in a folder: another than transformers', which could not read it."""

_NAMES = ("model.safetensors", "pytorch_model.bin", "model.pt", "model.pth", PACKED)


def load_weights(path: Path) -> dict[str, Tensor]:
    """Read every tensor of a weights file by name, checked as in `load_into`.

    Raises:
        InputError: if the file is absent, or holds several sets of weights.
        IntegrityError: if it is damaged, holds NaN or infinity, or would run code.
    """
    weights = find_weights(Path(path))
    held, _ = _read(weights)
    if len(held) > 1:
        names = ", ".join(repr(one.at) for one in held)
        raise InputError(f"{weights} holds {len(held)} sets of weights: {names}. Save one of them alone.")
    _refuse_nonfinite(held[0].tensors, weights)
    return dict(held[0].tensors)


def find_weights(path: Path) -> Path:
    """The weights file that a path means: itself, or the one in that folder under its usual name.

    Raises:
        InputError: if there is none.
    """
    if path.is_file():
        if path.suffix not in (".safetensors", *_PICKLED) and not path.name.endswith(".index.json"):
            raise InputError(
                f"{path} is no weights file by its name. Give one that ends in .safetensors or "
                f"{', '.join(_PICKLED)}, or the index of several (.index.json)."
            )
        return path
    if not path.is_dir():
        raise InputError(
            f"there is no model at {path}. Give a weights file, or the folder that holds {_NAMES[0]}."
        )
    there = [name for name in (*_NAMES, *INDEXES) if (path / name).is_file()]
    if there:
        if len(there) > 1:
            tell(f"{path}: {there[0]} was read, and not {', '.join(there[1:])} beside it.")
        return path / there[0]
    held = sorted(p.name for p in path.iterdir())
    raise InputError(
        f"the folder {path} holds none of {', '.join(_NAMES)}; it holds: {_few(held) or 'nothing'}."
    )


def written_here(path: Path) -> bool:
    """Whether a path is a weights file, or a folder with one, that `save_model` wrote."""
    file = usual(path)
    if file.suffix != ".safetensors" or not file.is_file():
        return False
    try:
        with safe_open(file, framework="pt") as opened:
            return _KEY in (opened.metadata() or {})
    except (SafetensorError, OSError):
        return False


def usual(path: Path) -> Path:
    """The weights file of ours that a path means, whether or not it is there: itself, or that of a folder."""
    if not path.is_dir():
        return path
    return path / (PACKED if (path / PACKED).is_file() and not (path / _NAMES[0]).is_file() else _NAMES[0])


def _companions(weights: Path) -> tuple[Path, Path]:
    prefix = "" if weights.name in (*_NAMES, *INDEXES) else f"{weights.stem}."
    return weights.with_name(f"{prefix}mask.safetensors"), weights.with_name(f"{prefix}structure.json")


def _read(weights: Path) -> tuple[list[Held], dict[str, Any] | None]:
    if weights.stat().st_size == 0:
        raise IntegrityError(f"{weights} is empty. Copy or download it again.")
    if weights.suffix == ".json":
        return [Held("", read_shards(weights, _read_part))], None
    if weights.suffix != ".safetensors":
        return _read_pickled(weights), None
    tensors, record = _read_safetensors(weights)
    for name, other in (record or {}).get("aliases", {}).items():
        tensors[name] = tensors[other]
    return [Held("", tensors)], record


def _read_part(file: Path) -> dict[str, Tensor]:
    held, _ = _read(find_weights(file))
    return {name: tensor for one in held for name, tensor in one.tensors.items()}


def _refuse_nonfinite(tensors: Mapping[str, Tensor], weights: Path) -> None:
    bad = nonfinite(tensors)
    if bad:
        raise IntegrityError(f"{weights} holds {bad}. Use a checkpoint from before that.")


def _read_safetensors(weights: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    try:
        with safe_open(weights, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            told = file.metadata() or {}
        text = told.get(_KEY)
        if text is None and any("aliases" in value or "sha256" in value for value in told.values()):
            raise ValueError("the name of its record is damaged")
        record = None if text is None else json.loads(text)
        if isinstance(record, dict) and record.get("packed") is not None:
            tensors = unpack(tensors, record["packed"])
        if text is not None:
            _check(record, tensors)
    except (
        SafetensorError,
        KeyError,
        ValueError,
        TypeError,
        AttributeError,
        RecursionError,
        OverflowError,
    ) as error:
        size = weights.stat().st_size
        raise IntegrityError(
            f"{weights} ({size:,} bytes) is not a whole safetensors file ({_short(error)}). Copy or download "
            "it again."
        ) from error
    return tensors, record


def packed_record(weights: Path) -> dict[str, Any] | None:
    """How a file of packed weights is to be read, by its header; None of any other file."""
    if weights.suffix != ".safetensors" or not weights.is_file():
        return None
    try:
        with safe_open(weights, framework="pt") as file:
            found = json.loads((file.metadata() or {}).get(_KEY, "null"))
    except (SafetensorError, OSError, ValueError, RecursionError):
        return None
    record: dict[str, Any] | None = found.get("packed") if isinstance(found, dict) else None
    return record


def packed_mask(weights: Path) -> Mask | None:
    """The mask in a file of packed weights; None if it was written without one.

    Raises:
        IntegrityError: if it is damaged.
    """
    record = packed_record(weights) or {"masked": []}
    try:
        with safe_open(weights, framework="pt") as file:
            held = {n: file.get_tensor(n) for name in record["masked"] for n in (name, name + BITS)}
        return Mask({name: alive(held, record, name) for name in record["masked"]}) or None
    except (SafetensorError, KeyError, ValueError, TypeError, OverflowError) as error:
        raise IntegrityError(f"{weights} is damaged ({_short(error)}). Copy it again.") from error


def _check(record: Any, tensors: Mapping[str, Tensor]) -> None:
    if not isinstance(record, dict) or set(record) - {"packed"} != {"aliases", "sha256", "mask", "structure"}:
        raise ValueError("its header is not one that unweave writes")
    if any(other not in tensors for other in record["aliases"].values()):
        raise ValueError("its header names a tensor that it lacks")
    if record["sha256"] != _digest(tensors):
        raise ValueError("its weights differ from those that were written")


def _is_bare_pickle(file: Path) -> bool:
    """Whether a file begins as a pickle does, and not as torch's own old format, whose magic number comes first."""
    with open(file, "rb") as opened:
        head = opened.read(16)
    return head[:1] == b"\x80" and not head.startswith(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19")


def _read_pickled(weights: Path) -> list[Held]:
    try:
        _check_sums(weights)
        with warnings.catch_warnings(), torch.serialization.safe_globals(_figures()):
            warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)
            content = torch.load(weights, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler raises nearly every type on bytes that are not a checkpoint
        code = re.search(r"(?:GLOBAL|[Uu]nsupported class|function) ([\w.]+\.\w+)", str(error))
        if code:
            raise IntegrityError(
                f"{weights} holds more than tensors and would run {code[1]} when read, so it was not read. "
                "Where you trust it, write torch.save(model.state_dict()) or safetensors there and give that."
            ) from error
        if _is_bare_pickle(weights):
            raise IntegrityError(
                f"{weights} is a plain pickle that torch.save did not write, so it was not read: reading one can run "
                "code. Write torch.save(model.state_dict()) or safetensors there and give that."
            ) from error
        raise IntegrityError(
            f"{weights} is not a whole torch checkpoint ({_short(error)}). Copy or download it again."
        ) from error
    held = sets_of_tensors(content)
    if held:
        return held
    if not isinstance(content, Mapping) or not content:
        raise InputError(
            f"{weights} holds a {type(content).__name__}; expected a state_dict: names with tensors."
        )
    strange = [
        str(name) for name, value in content.items() if not isinstance(name, str) or not is_plain(value)
    ]
    raise InputError(
        f"{weights} is no state_dict: {_few([' '.join(name.split())[:80] for name in strange])} are no tensors of "
        "plain numbers. Save model.state_dict() alone."
    )


def _figures() -> list[Any]:
    """What training scripts put beside their weights, and runs nothing: arguments, and figures of numpy."""
    scalar = np.float64(0).__reduce__()[0]
    kinds = {type(np.dtype(code)) for code in np.typecodes["All"] if np.dtype(code).kind in "biufc"}
    named = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    return [Namespace, np.dtype, *kinds, *named]


def _check_sums(weights: Path) -> None:
    # torch does not compare the checksums that it writes
    if zipfile.is_zipfile(weights):
        with zipfile.ZipFile(weights) as archive:
            for entry in archive.infolist():
                if entry.CRC:  # 0 where torch was told to write none
                    with archive.open(entry) as content:
                        while content.read(2**20):
                            pass


def _check_companions(weights: Path, record: Mapping[str, Any] | None) -> None:
    if record is None:  # not written by us: whatever lies beside is taken as it is
        return
    for kind, file in zip(("mask", "structure"), _companions(weights), strict=True):
        expected = record[kind]
        if expected is None and file.exists():
            raise IntegrityError(
                f"{file} does not belong to {weights.name}, which was written without one. Remove it."
            )
        if expected is not None and not file.exists():
            raise IntegrityError(f"{file} is missing; {weights.name} was written with it. Copy it beside.")
        if expected is not None and sha256(file) != expected:
            raise IntegrityError(
                f"{file} is damaged or belongs to another model than {weights.name}. Copy both again."
            )


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        if tensor.numel():
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _few(names: Iterable[str], most: int = 5) -> str:
    listed = list(names)
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")


def _short(error: Exception) -> str:
    return " ".join((str(error) or type(error).__name__).split())[:200]


def nonfinite(tensors: Mapping[str, Tensor]) -> str:
    """How many values of these tensors are NaN or infinite, and where, in words; "" if none."""
    bad = [name for name, tensor in tensors.items() if not _finite(tensor)]
    if not bad:
        return ""
    count = sum(int((~torch.isfinite(_wide(tensors[name]))).sum()) for name in bad)
    return f"{count} values that are NaN or infinite, in {_few(bad)}"


def _finite(tensor: Tensor) -> bool:
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return True
    return bool(torch.isfinite(_wide(tensor)).all())


def _wide(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() and tensor.itemsize < 2 else tensor
