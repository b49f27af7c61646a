"""The record of a run: what it was begun with, and by which versions, on which machine."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch

from ..errors import InputError, IntegrityError
from .files import sha256_of

_RECORD, _LOCK, _WORK = "run.json", ".lock", ".work"

_FORMAT = 1


def read_record(path: Path) -> dict[str, Any]:
    """Read the run.json of a run folder.

    Raises:
        InputError: if there is none.
        IntegrityError: if it is damaged or was changed.
    """
    file = Path(path) / _RECORD
    if not file.is_file():
        raise InputError(f"{path} is no run folder: it has no {_RECORD}.")
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(record, dict):
            raise ValueError("it is no object")
        if record.get("sha256") != _checksum(
            {key: value for key, value in record.items() if key != "sha256"}
        ):
            raise ValueError("its checksum does not match")
        if record["format"] != _FORMAT:
            raise ValueError(f"it has format {record['format']!r}; this version reads {_FORMAT}")
        _check_form(Path(path), record)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise IntegrityError(f"{file} is damaged ({reason}). Delete the folder and run again.") from error
    return record


def _check_form(path: Path, record: Mapping[str, Any]) -> None:
    kinds = {"settings": dict, "seed": int, "versions": dict, "inputs": dict, "stages": dict, "times": dict}
    for key, kind in kinds.items():
        if not isinstance(record[key], kind):
            raise ValueError(f"its {key!r} is no {kind.__name__}")
    if any(not isinstance(digest, str) for digest in record["inputs"].values()):
        raise ValueError("an input has no hash")
    if any(
        not isinstance(times, dict) or "starts" not in times for times in record["times"]["stages"].values()
    ):
        raise ValueError("a stage's times are damaged")
    for stage in record["stages"].values():
        if stage["state"] not in ("finished", "unfinished") or not isinstance(stage["makes"], list):
            raise ValueError("a stage's entry is damaged")
        for name, digest in stage["artefacts"].items():
            _inside(path, name)
            if not isinstance(digest, str):
                raise ValueError("a result has no hash")
    for name in record.get("discarded", ()):
        _inside(path, name)


def _refuse_other(
    path: Path,
    record: Mapping[str, Any],
    asked: Mapping[str, Any],
    hashes: Mapping[str, str],
    inputs: Mapping[str, Path | str],
) -> None:
    then = {"seed": record.get("seed"), **_flat(record.get("settings", {}))}
    now = {"seed": asked["seed"], **_flat(asked["settings"])}
    keys = [*now, *(key for key in then if key not in now)]
    differ = [
        f"{key} was {_show(then, key)}, now {_show(now, key)}"
        for key in keys
        if json.dumps(then.get(key, _ABSENT)) != json.dumps(now.get(key, _ABSENT))
    ]
    if differ:
        raise InputError(
            f"{path} holds a run with other settings: {'; '.join(differ[:_MOST])}"
            f"{f'; and {len(differ) - _MOST} more' if len(differ) > _MOST else ''}. "
            "Repeat those, or give another folder."
        )
    before = record["inputs"]
    if set(before) != set(hashes):
        raise InputError(
            f"{path} holds a run with other inputs: it had {', '.join(sorted(before)) or 'none'}; now "
            f"{', '.join(sorted(hashes)) or 'none'}. Give another folder."
        )
    for name, digest in hashes.items():
        if before[name] != digest:
            where = f" ({inputs[name]})" if isinstance(inputs[name], Path) else ""
            raise IntegrityError(
                f"input {name}{where} is not what the run in {path} began with (sha256 "
                f"{str(before[name])[:12]}... then, {digest[:12]}... now). Put the right file back, or give "
                "another folder."
            )
    versions = _versions()
    begun = record["versions"]
    other = [f"{k} {begun.get(k)} then, {v} now" for k, v in versions.items() if begun.get(k) != v]
    if other:
        raise InputError(
            f"{path} was begun with other versions: {'; '.join(other)}. Go on with those, or give another "
            "folder."
        )


_ABSENT = "(not given)"

_MOST = 5


def _show(values: Mapping[str, Any], key: str) -> str:
    return json.dumps(values[key]) if key in values else _ABSENT


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict) or not tree:
        return {prefix: tree} if prefix else {}
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = str(key) if str(key).isprintable() else repr(key)
        flat |= _flat(value, f"{prefix}.{name}" if prefix else name)
    return flat


def _plain(tree: dict[str, Any], path: Path) -> dict[str, Any]:
    try:
        plain: dict[str, Any] = json.loads(json.dumps(tree))
    except (TypeError, ValueError) as error:
        raise InputError(f"the settings of the run in {path} must be plain JSON ({error}).") from error
    return plain


def _hash(name: str, given: Path | str) -> str:
    if isinstance(given, str):
        return given
    if not given.exists():
        raise InputError(f"input {name}: there is no {given}.")
    return sha256_of(given)


def _checksum(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _versions() -> dict[str, str]:
    from .. import __version__

    return {
        "unweave": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "safetensors": version("safetensors"),
    }


def _hardware() -> dict[str, Any]:
    gpus = (
        [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        if torch.cuda.is_available()
        else []
    )
    return {
        "system": f"{sys.platform} {platform.machine()}",
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "gpus": gpus,
    }


def _inside(folder: Path, name: str) -> Path:
    parts = PurePosixPath(name).parts
    if not parts or PurePosixPath(name).is_absolute() or ".." in parts or parts[0] in (_RECORD, _LOCK, _WORK):
        raise InputError(f"a stage's result must be a path inside the run folder; got {name!r}.")
    return folder / name
