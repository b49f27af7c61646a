"""Half-precision tensors held in float32 while something trains them."""

from __future__ import annotations

from collections.abc import Iterable

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
        self._kept: list[tuple[Tensor, torch.dtype]] = []
        own = list(trained)
        if not any(p.dtype in HALF for p in own):
            return
        once = {id(t): t for t in (*own, *model.parameters(), *model.buffers())}
        self._kept = [(t, t.dtype) for t in once.values() if t.dtype in HALF]
        for tensor, _ in self._kept:
            tensor.data = tensor.data.float()

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
