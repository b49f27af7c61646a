"""The blocks of a transformer, found by structure, and what comes out of one of them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from torch import Tensor
from torch.nn import Module, ModuleList

from ..errors import InputError


class _Seen(Exception):  # noqa: N818 - not an error: ends a forward pass that has shown enough
    pass


def blocks_of(model: Module, who: str) -> ModuleList:
    """The longest list of equal modules that lies in no other list.

    Raises:
        InputError: naming `who`, if there is none.
    """
    lists = [m for m in model.modules() if isinstance(m, ModuleList) and len({type(b) for b in m}) == 1]
    outer = [m for m in lists if not any(m is not o and _holds(o, m) for o in lists)]
    if not outer:
        raise InputError(
            f"{who} reads a model block by block; {type(model).__name__} has no list of equal blocks (ModuleList)."
        )
    return max(outer, key=len)


def after_block(block: Module, run: Callable[[], Any]) -> Tensor:
    """What a block puts out, [n, t, width], when `run` lets its model read a batch; nothing behind it is computed."""
    found: list[Tensor] = []

    def see(_: Module, __: Any, out: Any) -> None:
        found.append(out if isinstance(out, Tensor) else out[0])
        raise _Seen

    hook = block.register_forward_hook(see)
    try:
        with suppress(_Seen):
            run()
    finally:
        hook.remove()
    if not found:
        raise InputError(
            f"the model does not call its block {type(block).__name__}, so nothing can be read of it."
        )
    return found[0]


def _holds(outer: ModuleList, inner: Module) -> bool:
    return any(part is inner for block in outer for part in block.modules())
