"""A model's blocks, run one at a time by the model itself: masks, positions and caches are those of its own pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from math import nan
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from ..types import Batch

Run = Callable[[Batch], Any]
"""Runs a model on a batch."""


class Stop(Exception):  # noqa: N818 - not an error
    """Raised in a hook, it ends a forward pass that has shown enough."""


class Chain:
    """Batches on their way through a model's blocks.

    Where each block is called once, in order, and needs no more than the last one's answer, that answer is kept for
    each batch and the blocks before are not run again. Other models are run from their beginning every time.

    Args:
        run: runs the model, in eval mode and without gradients.
        batches: that it reads.
        blocks: in their order; with none, a batch is read to the model's end.
    """

    def __init__(self, run: Run, batches: Sequence[Batch], blocks: Sequence[Module]) -> None:
        self._run, self._batches, self._blocks = run, batches, blocks
        self._kept: list[Any] | None = [None] * len(batches) if _chained(run, batches[0], blocks) else None

    def read(self, k: int, i: int) -> None:
        """Let the model read batch k, at least to the end of block i or to where a hook raises Stop."""
        if self._kept is None:
            with suppress(Stop):
                self._run(self._batches[k])
        else:
            _answer(self._run, self._batches[k], self._blocks[: i + 1], self._kept[k])

    def move(self, i: int) -> None:
        """Take each batch from block i - 1 through block i as that is now."""
        if self._kept is not None:
            upto = self._blocks[: i + 1]
            self._kept = [
                _answer(self._run, batch, upto, before)
                for batch, before in zip(self._batches, self._kept, strict=True)
            ]


def _chained(run: Run, batch: Batch, blocks: Sequence[Module]) -> bool:
    own: list[Any] = []
    hooks = [
        b.register_forward_hook(lambda _m, _a, out: own.append(_each(out, Tensor.clone))) for b in blocks
    ]
    try:
        run(batch)
    except TypeError:  # an answer of an unknown kind
        return False
    finally:
        for hook in hooks:
            hook.remove()
    if not blocks or len(own) != len(blocks):
        return False
    try:
        for i, (before, out) in enumerate(zip(own, own[1:], strict=False), 1):
            torch.testing.assert_close(_answer(run, batch, blocks[: i + 1], before), out, equal_nan=True)
    except Exception:  # whatever a model raises where an earlier block has left nothing for a later one
        return False
    return True


def _answer(run: Run, batch: Batch, blocks: Sequence[Module], before: Any) -> Any:
    """What the last block answers after the one before it has answered `before`; the others are not run.

    Whoever reads the answers of still earlier ones reads NaN.
    """
    said: list[Any] = []

    def keep(_module: Module, _args: Any, out: Any) -> None:
        said.append(out)
        raise Stop

    hook = blocks[-1].register_forward_hook(keep)
    try:
        with _answering(blocks[:-1], before), suppress(Stop):
            run(batch)
    finally:
        hook.remove()
    return said[0]


@contextmanager
def _answering(blocks: Sequence[Module], last: Any) -> Iterator[None]:
    lost = _each(last, lambda t: torch.full_like(t, nan) if t.is_floating_point() else t)
    own = [vars(block).get("forward") for block in blocks]
    try:
        for block in blocks:
            vars(block)["forward"] = lambda *_, **__: lost
        if blocks:  # a copy: the model may work on it in place
            vars(blocks[-1])["forward"] = lambda *_, **__: _each(last, Tensor.clone)
        yield
    finally:
        for block, forward in zip(blocks, own, strict=True):
            del vars(block)["forward"]
            if forward is not None:
                vars(block)["forward"] = forward


def _each(answer: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(answer, Tensor):
        return change(answer)
    if answer is None:
        return None
    if type(answer) in (tuple, list):
        return type(answer)(_each(part, change) for part in answer)
    raise TypeError(f"a block answers with a {type(answer).__name__}")
