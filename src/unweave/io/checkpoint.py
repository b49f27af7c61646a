"""Model weights on disk: safetensors, with the mask and the record of removed structure beside them.

`model.safetensors` has `mask.safetensors` and `structure.json` beside it; `x.safetensors` has
`x.mask.safetensors` and `x.structure.json`. The weights' header names the hashes of both, so that files of
two different models are never read as one, and of the weights themselves, so that a flipped bit does not load
silently.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import Module

from ..errors import InputError, IntegrityError, NonFiniteError, UnweaveError
from ..masks.layers import copied
from ..masks.mask import Mask
from .files import bytes_of, sha256, written_together
from .fitting import fitting
from .lora import adapter_weights, base_of, is_adapter, merged
from .masks import load_mask, save_mask
from .memory import give_back
from .packed import pack
from .weights import (
    _KEY,
    _NAMES,
    _PICKLED,
    PACKED,
    _check_companions,
    _companions,
    _digest,
    _few,
    _read,
    _refuse_nonfinite,
    _short,
    find_weights,
    load_weights,
    nonfinite,
    packed_mask,
    packed_record,
    usual,
)


def save_model(
    model: Module,
    path: Path,
    *,
    mask: Mask | None = None,
    structure: Mapping[str, Any] | None = None,
    packed: bool = False,
) -> Path:
    """Write a model's weights, and what else is needed to load them, all or none.

    Args:
        model: any dtype; tensors that share storage (tied weights) are written once.
        path: a folder, or a file that ends in .safetensors.
        mask: which weights live; the model must be zero elsewhere.
        structure: record of removed structure, plain JSON, as `unweave.io.structure` makes it.
        packed: write of sparse tensors only the weights that live and where they lie, see `unweave.io.packed`; in a
            folder the file is packed.safetensors, and holds the mask too. `load_into` reads either.

    Returns:
        The weights file that was written.

    Raises:
        InputError: if the mask does not fit the model, or the path has another ending.
        NonFiniteError: if a weight is NaN or infinite.
        StorageError: if a file cannot be written; then the old ones are still there.
    """
    weights = _target(Path(path), packed)
    tensors, aliases = _untie(model)
    bad = nonfinite(tensors)
    if bad:
        raise NonFiniteError(f"the model to be written to {weights} holds {bad}; nothing was written.")
    if mask is not None:
        require_zeros(model, mask)
    mask_file, structure_file = _companions(weights)
    record: dict[str, Any] = {"aliases": aliases, "sha256": _digest(tensors), "mask": None, "structure": None}
    if packed:
        tensors, record["packed"] = pack(tensors, mask)
    paths = [weights]
    paths += [mask_file] if mask is not None and not packed else []
    paths += [structure_file] if structure is not None else []
    others = (
        [weights.with_name(n) for n in (_NAMES[0], PACKED)] if weights.name in (_NAMES[0], PACKED) else []
    )
    gone = tuple(p for p in (mask_file, structure_file, *others) if p not in paths)
    with written_together(*paths, gone=gone, needs=bytes_of(tensors)) as besides:
        beside = dict(zip(paths, besides, strict=True))
        if mask is not None and not packed:
            save_mask(mask, beside[mask_file])
            record["mask"] = sha256(beside[mask_file])
        if structure is not None:
            beside[structure_file].write_text(json.dumps(structure, indent=1), encoding="utf-8")
            record["structure"] = sha256(beside[structure_file])
        # one key only: safetensors writes several in a random order, and equal models must give equal bytes
        save_file(tensors, beside[weights], metadata={_KEY: json.dumps(record)})
    return weights


def load_into(model: Module, path: Path) -> Module:
    """A copy of `model` with the weights of a file, in the file's floating-point dtypes.

    If a record of removed structure lies beside the file, the copy loses that structure first. Of a training script's
    checkpoint the one set of tensors that fits is taken, whatever its key; prefixes of DataParallel, torch.compile and
    the like are taken off, masks of torch.nn.utils.prune applied, and what was done is told on the `unweave` logger.
    Pickles are read as plain tensors only.

    Args:
        model: of the architecture that was saved; left unchanged.
        path: a .safetensors, .pt, .pth, .pth.tar, .bin, .ckpt or like file, the index of several (.index.json), a
            folder that holds one under its usual name, or a folder of an adapter (adapter_config.json), which is
            merged into the weights at its base_model_name_or_path.

    Raises:
        InputError: if the file is absent, holds other names or shapes than the model, or several sets that fit; or if
            the model computes a weight before each call and so cannot be copied.
        IntegrityError: if the file is damaged, holds NaN or infinity, would run code, or does not belong to
            the files beside it.
    """
    if is_adapter(path):
        return merged(load_into(model, base_of(path)), Path(path), load_weights(adapter_weights(path)))
    weights = find_weights(Path(path))
    loaded = copied(model)
    del model  # one that was made for this call alone takes no memory from here on
    held, record = _read(weights)
    _check_companions(weights, record)
    structure_file = _companions(weights)[1]
    if structure_file.exists():
        loaded = _restructured(loaded, structure_file)
    tensors = fitting(loaded.state_dict(), held, weights)
    _refuse_nonfinite(tensors, weights)
    _fill_(loaded, tensors, weights, structure_file)
    mask = mask_beside(weights)
    if mask is not None:
        require_zeros(loaded, mask, f"{weights} and the mask beside it")
    del held, tensors
    give_back()
    return loaded


def mask_beside(path: Path) -> Mask | None:
    """The mask that lies beside a model's weights (a file, or the folder that holds it) or in them, if there is one.

    Raises:
        IntegrityError: if it is damaged.
    """
    weights = usual(Path(path))
    if packed_record(weights):
        return packed_mask(weights)
    mask_file = _companions(weights)[0]
    return load_mask(mask_file) if mask_file.exists() else None


def structure_beside(path: Path) -> Mapping[str, Any] | None:
    """The record of removed structure that lies beside a model's weights (a file, or its folder), if there is one.

    Raises:
        IntegrityError: if it is damaged.
    """
    path = Path(path)
    file = _companions(usual(path))[1]
    if not file.exists():
        return None
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError, RecursionError) as error:
        raise IntegrityError(f"{file} is not a readable structure record. Copy the folder again.") from error


def require_zeros(model: Module, mask: Mask, where: str = "the model") -> None:
    """Raise InputError if `model`, called `where` in the message, is not zero wherever the mask says dead."""
    alive = [
        name for name, parameter, keep in mask.match(model) if bool((parameter.detach()[~keep] != 0).any())
    ]
    if alive:
        raise InputError(
            f"{where} disagree: weights that the mask calls dead are not zero in {_few(alive)}. Call "
            "mask.apply_(model)."
        )


def _target(path: Path, packed: bool) -> Path:
    if path.suffix == ".safetensors":
        return path
    if path.suffix in _PICKLED and not path.is_dir():
        raise InputError(
            f"models are written as safetensors; got {path.name}. Give a folder, or a name ending in "
            ".safetensors."
        )
    return path / (PACKED if packed else _NAMES[0])


def _untie(model: Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    first: dict[Any, str] = {}
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor):
            raise InputError(
                f"the model's state {name!r} is a {type(value).__name__}; only tensors can be written."
            )
        same = (value.data_ptr(), value.shape, value.stride(), value.dtype, value.device)
        if value.numel() and same in first:
            aliases[name] = first[same]
            continue
        first[same] = name
        tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
    return tensors, aliases


def _restructured(model: Module, file: Path) -> Module:
    from .structure import restructure_

    try:
        structure = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise IntegrityError(
            f"{file} is not a whole record of structure ({_short(error)}). Copy it again."
        ) from error
    try:
        return restructure_(model, structure)
    except UnweaveError:
        raise
    except (KeyError, ValueError, TypeError, AttributeError, IndexError, RuntimeError) as error:
        raise IntegrityError(
            f"{file} does not describe this {type(model).__name__} ({_short(error)}). Give its own."
        ) from error


def _fill_(model: Module, tensors: dict[str, Tensor], weights: Path, structure_file: Path) -> None:
    own = model.state_dict()
    wrong = [name for name in own if name in tensors and own[name].shape != tensors[name].shape]
    if wrong:
        name = wrong[0]
        hint = (
            ""
            if structure_file.exists()
            else f" If channels were removed, {structure_file.name} must lie beside it."
        )
        raise InputError(
            f"{weights} does not fit the model: {name!r} is {tuple(tensors[name].shape)} in the file and "
            f"{tuple(own[name].shape)} in the model ({len(wrong)} such). Give the network that was "
            f"saved.{hint}"
        )
    kinds = [n for n in own if n in tensors and own[n].is_floating_point() != tensors[n].is_floating_point()]
    if kinds:
        name = kinds[0]
        raise InputError(
            f"{weights} does not fit the model: {name!r} is {tensors[name].dtype} in the file and "
            f"{own[name].dtype} "
            f"in the model. Give the network that was saved."
        )
    for name, held in own.items():
        if name in tensors and held.is_floating_point() and held.dtype != tensors[name].dtype:
            _retype_(model, name, tensors[name].dtype)
    model.load_state_dict(tensors, strict=False)


def _retype_(model: Module, name: str, dtype: torch.dtype) -> None:
    path, _, leaf = name.rpartition(".")
    held = getattr(model.get_submodule(path), leaf)
    held.data = held.data.to(dtype)
