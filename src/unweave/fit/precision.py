"""Half-precision tensors held in float32 while something trains them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor
from torch.nn import Module

HALF = (torch.float16, torch.bfloat16)


class Wide:
    """Holds a model's half-precision parameters and buffers in float32, in place, until they are put back.

    Half precision loses a training's steps: 1e-5 added to 0.1 is 0.1 in bfloat16, and Adam's 1e-8 is 0 in float16.
    What does not move keeps its bits.

    Args:
        model: changed in place, if any of the parameters to be trained is in half precision; else left alone.
        trained: parameters to be trained.
    """

    def __init__(self, model: Module, trained: Iterable[Tensor]) -> None:
        own = list(trained)
        narrow = any(p.dtype in HALF for p in own)
        self._kept = _widen_([*own, *(t for _, t in _tensors(model))]) if narrow else []

    def overflows(self) -> bool:
        """Whether a value is too large for the dtype that it goes back to."""
        return any(
            dtype == torch.float16 and bool((t.detach().abs() > torch.finfo(dtype).max).any())
            for t, dtype in self._kept
        )

    def put_back_(self) -> None:
        """Give every tensor its own dtype again."""
        for tensor, dtype in self._kept:
            tensor.data = tensor.data.to(dtype)


def is_narrow(model: Module) -> bool:
    """Whether any of a model's parameters or buffers is in half precision."""
    return any(tensor.dtype in HALF for _, tensor in _tensors(model))


def widen_(model: Module) -> None:
    """Hold a model's half-precision parameters and buffers in float32, in place."""
    _widen_(tensor for _, tensor in _tensors(model))


def narrow_(model: Module, like: Module) -> None:
    """Give a model's parameters and buffers, in place, the dtypes of those by the same names in another."""
    dtypes = {name: tensor.dtype for name, tensor in _tensors(like)}
    for name, tensor in _tensors(model):
        tensor.data = tensor.data.to(dtypes[name])


def _widen_(tensors: Iterable[Tensor]) -> list[tuple[Tensor, torch.dtype]]:
    """Those that were in half precision, each once, with the dtype that it had."""
    once = {id(tensor): tensor for tensor in tensors}
    kept = [(tensor, tensor.dtype) for tensor in once.values() if tensor.dtype in HALF]
    for tensor, _ in kept:
        tensor.data = tensor.data.float()
    return kept


def _tensors(model: Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()
