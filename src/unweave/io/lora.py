"""Adapters that peft saved, merged into the weights that they were trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from warnings import catch_warnings, simplefilter

from torch import Tensor
from torch.nn import Module

from ..errors import InputError, IntegrityError, UnweaveError, require
from .told import tell

_CONFIG = "adapter_config.json"
_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")


def is_adapter(path: Path) -> bool:
    """Whether a path is a folder of an adapter."""
    return (Path(path) / _CONFIG).is_file()


def base_of(folder: Path) -> Path:
    """The folder, or weights file, of what an adapter was trained on.

    Raises:
        InputError: if it is not on this machine: it is never fetched, and no other weights are taken for it.
        IntegrityError: if the adapter's record is damaged.
    """
    told = _record(folder).get("base_model_name_or_path")
    for place in (Path(folder) / str(told or ""), Path(str(told or ""))):
        if told and place.exists() and not is_adapter(place):
            return place
    raise InputError(
        f"{folder} is an adapter of {told!r}, which is no folder of whole weights here. Write the folder of those "
        f"weights into base_model_name_or_path of its {_CONFIG}."
    )


def adapter_weights(folder: Path) -> Path:
    """The weights file of an adapter.

    Raises:
        InputError: if there is none.
    """
    for name in _WEIGHTS:
        if (Path(folder) / name).is_file():
            return Path(folder) / name
    raise InputError(f"the adapter in {folder} has no {' or '.join(_WEIGHTS)}. Copy it beside its {_CONFIG}.")


def merged(base: Module, folder: Path, tensors: dict[str, Tensor]) -> Module:
    """`base` with an adapter merged in; `base` may be changed.

    Args:
        base: with the weights that the adapter was trained on.
        folder: of the adapter.
        tensors: of its weights file.

    Raises:
        IntegrityError: if the adapter is damaged or belongs to another model.
        MissingExtraError: without peft.
    """
    peft: Any = require("peft", extra="language", purpose=f"reading the adapter in {folder}")
    record = _record(folder)
    try:
        config = peft.PeftConfig.from_pretrained(str(folder))
        config.task_type = None  # any module, not only models of transformers
        config.inference_mode, config.base_model_name_or_path = True, None
        with catch_warnings():
            simplefilter("ignore")  # peft asks for names that transformers has renamed
            wrapped = peft.get_peft_model(base, config)
        done = peft.set_peft_model_state_dict(wrapped, dict(tensors))
        lost = [n for n in done.missing_keys if "lora" in n or "modules_to_save" in n] + list(
            done.unexpected_keys
        )
        if lost:
            raise ValueError(f"{len(lost)} weights fit none of the model's layers or are missing: {lost[0]}")
        whole: Module = wrapped.merge_and_unload()
    except UnweaveError:
        raise
    except Exception as error:  # peft raises nearly every type on records and weights that do not fit
        reason = " ".join((str(error) or type(error).__name__).split())[:200]
        raise IntegrityError(
            f"{folder} is no whole adapter of this {type(base).__name__} ({reason}). Give it beside its own base."
        ) from error
    tell(
        f"{folder}: {len(tensors)} tensors of a {record.get('peft_type')} adapter merged into {base_of(folder)}."
    )
    return whole


def _record(folder: Path) -> dict[str, Any]:
    file = Path(folder) / _CONFIG
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(record, dict):
            raise ValueError("it is no object")
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise IntegrityError(
            f"{file} is not a whole record of an adapter ({reason}). Copy it again."
        ) from error
    return record
