"""Nested state (an optimiser's state_dict, say) as a JSON tree and a flat set of tensors: no pickle needed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import IntegrityError
from .files import write_tensors

_KINDS = {"list": list, "tuple": tuple}


def split(tree: Any) -> tuple[Any, dict[str, Tensor]]:
    """Split into a JSON-able skeleton and the tensors it refers to.

    Raises:
        TypeError: on a leaf that is neither a tensor nor a JSON scalar.

    Example:
        >>> skeleton, tensors = split({"step": 3, "state": {0: (torch.zeros(2), None)}})
        >>> join(skeleton, tensors)
        {'step': 3, 'state': {0: (tensor([0., 0.]), None)}}
    """
    tensors: dict[str, Tensor] = {}

    def walk(node: Any, path: str) -> Any:
        if isinstance(node, Tensor):
            plain = node.detach().resolve_conj().resolve_neg().contiguous().cpu()
            tensors[path] = torch.view_as_real(plain) if plain.is_complex() else plain
            return {"kind": "complex" if plain.is_complex() else "tensor", "at": path}
        if isinstance(node, Mapping):
            items = [
                [walk(k, f"{path}.k{i}"), walk(v, f"{path}.{k}")] for i, (k, v) in enumerate(node.items())
            ]
            return {"kind": "dict", "items": items}
        for kind, cls in _KINDS.items():
            if isinstance(node, cls):
                return {"kind": kind, "items": [walk(v, f"{path}.{i}") for i, v in enumerate(node)]}
        if node is None or isinstance(node, (bool, int, float, str)):
            return node
        raise TypeError(
            f"cannot store {type(node).__name__} at {path or 'the root'}: only tensors and JSON scalars."
        )

    return walk(tree, "t"), tensors


def join(skeleton: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Inverse of `split`."""
    if not isinstance(skeleton, dict):
        return skeleton
    kind = skeleton["kind"]
    if kind == "tensor":
        return tensors[skeleton["at"]]
    if kind == "complex":  # safetensors knows but one such dtype
        return torch.view_as_complex(tensors[skeleton["at"]])
    if kind == "dict":
        return {join(k, tensors): join(v, tensors) for k, v in skeleton["items"]}
    return _KINDS[kind](join(v, tensors) for v in skeleton["items"])


def save_nested(tree: Any, path: Path) -> None:
    """Write nested state to one safetensors file, whole or not at all."""
    skeleton, tensors = split(tree)
    # safetensors refuses shared storage and has no empty file; what shares none is written without a copy
    seen: set[int] = set()
    unshared: dict[str, Tensor] = {} if tensors else {"empty": torch.zeros(0)}
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage()
        shares = storage.data_ptr() in seen or storage.nbytes() != tensor.numel() * tensor.element_size()
        seen.add(storage.data_ptr())
        unshared[name] = tensor.clone() if shares else tensor
    told = json.dumps(skeleton)
    write_tensors(path, unshared, {"unweave": told, "sha256": _digest(told, unshared)})


def load_nested(path: Path) -> Any:
    """Read what `save_nested` wrote.

    Raises:
        IntegrityError: if the file is damaged, by as little as a bit, or not such a file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            told = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if told["sha256"] != _digest(told["unweave"], tensors):
                raise ValueError("its contents are not those that were written")
            return join(json.loads(told["unweave"]), tensors)
    except (SafetensorError, KeyError, ValueError, TypeError, RecursionError) as error:
        raise IntegrityError(
            f"{path} is not a readable state file ({error}). Remove it to start afresh."
        ) from error


def _digest(skeleton: str, tensors: Mapping[str, Tensor]) -> str:
    found = hashlib.sha256(skeleton.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.reshape(-1).contiguous().view(torch.uint8).numpy().data)
    return found.hexdigest()
