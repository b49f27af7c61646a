"""Let the experts of a mixture run on another routing than the router's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.nn import Module

from .blocks import MoE
from .watch import Routed, assembled

Reroute = Callable[[MoE, Routed], Routed]


@contextmanager
def rerouting(moes: Sequence[MoE], change: Reroute) -> Iterator[None]:
    """Within the `with` block the experts of these blocks run on what `change` makes of each call's routing.

    Args:
        moes: blocks of one model.
        change: (block, routing) -> routing of the same tokens; its index and weights are used, [tokens, any number].
            A weight of 0 counts for nothing.
    """
    hooks: list[Any] = []
    for moe in moes:
        asked: dict[str, Any] = {}

        def keep(_: Module, args: Any, kwargs: Any, output: Any, asked: dict[str, Any] = asked) -> None:
            asked["input"], asked["output"] = next(iter([*args, *kwargs.values()])), output

        def swap(_: Module, args: Any, kwargs: Any, moe: MoE = moe, asked: dict[str, Any] = asked) -> Any:
            told = assembled(moe, asked, [*args, *kwargs.values()])
            made = change(moe, told)
            swapped = tuple(_swapped(moe, t, told, made) for t in args)
            return swapped, {n: _swapped(moe, t, told, made) for n, t in kwargs.items()}

        hooks += [
            moe.router.register_forward_hook(keep, with_kwargs=True),
            moe.experts.register_forward_pre_hook(swap, with_kwargs=True),
        ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _swapped(moe: MoE, given: Any, told: Routed, made: Routed) -> Any:
    """What the experts receive in place of one of their inputs."""
    if not isinstance(given, Tensor) or given is told.hidden:
        return given
    if moe.scales_input:  # every expert reads every token times its weight
        scores = given.new_zeros(len(told.hidden), moe.routes)
        scores = scores.scatter_add(1, made.index, made.weights.to(given.dtype))
        return told.hidden.repeat(moe.routes, 1) * scores.T.reshape(-1, 1)
    return made.weights.to(given.dtype) if given.is_floating_point() else made.index.to(given.dtype)
