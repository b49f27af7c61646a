"""What the router of a mixture of experts chose, as the model applies it, seen by hooks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import Module

from ...errors import InputError
from ...tasks import Padded

if TYPE_CHECKING:
    from .blocks import MoE


@dataclass(frozen=True)
class Routed:
    """One call of a mixture of experts, token by token.

    Attributes:
        hidden: what the experts read, [tokens, H]; not yet scaled where a model scales inputs (Llama 4).
        index: chosen experts [tokens, k]; where an expert lies on another machine, a number past the last one.
        weights: what the model multiplies their outputs (Llama 4: inputs) with [tokens, k], after its own
            renormalisation, scaling and correction.
        logits: the router's answer before any softmax [tokens, experts], or None where it gives none.
    """

    hidden: Tensor
    index: Tensor
    weights: Tensor
    logits: Tensor | None = None

    def of(self, expert: int) -> tuple[Tensor, Tensor]:
        """Tokens that chose an expert [m], and its weight for each [m]."""
        tokens, slot = torch.where(self.index == expert)
        return tokens, self.weights[tokens, slot]

    def rows(self, kept: Tensor | None) -> Routed:
        """The tokens where `kept` [tokens] is true; all of them if it is None."""
        if kept is None:
            return self
        kept = kept.to(self.hidden.device)
        logits = None if self.logits is None else self.logits[kept]
        return Routed(self.hidden[kept], self.index[kept], self.weights[kept], logits)


See = Callable[["MoE", Routed], None]


@contextmanager
def watching(moes: Sequence[MoE], see: See, present: Tensor | None = None) -> Iterator[None]:
    """Show `see` each call of these blocks inside the `with` block, in the order of the calls.

    Args:
        moes: blocks of one model.
        see: called with the block and what was routed, before the experts run; without gradients only if the model
            runs without.
        present: positions that hold text [n, t]; what is padding is left out. None if all do.
    """
    hooks: list[Any] = []
    for moe in moes:
        asked: dict[str, Any] = {}

        def keep(_: Module, args: Any, kwargs: Any, output: Any, asked: dict[str, Any] = asked) -> None:
            asked["input"], asked["output"] = next(iter([*args, *kwargs.values()])), output

        def tell(_: Module, args: Any, kwargs: Any, moe: MoE = moe, asked: dict[str, Any] = asked) -> None:
            routed = assembled(moe, asked, [*args, *kwargs.values()])
            see(moe, routed.rows(None if present is None else present.flatten()))

        hooks += [
            moe.router.register_forward_hook(keep, with_kwargs=True),
            moe.experts.register_forward_pre_hook(tell, with_kwargs=True),
        ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def route_once(moe: MoE, hidden: Tensor) -> tuple[Tensor, Routed]:
    """A block's output for `hidden` [tokens, H], [tokens, H], and how it was routed."""
    seen: list[Routed] = []
    with watching([moe], lambda _, routed: seen.append(routed)):
        out: Any = moe.block(hidden[None])
    if len(seen) != 1:
        raise InputError(f"{moe.name} called its experts {len(seen)} times for one input; once is expected.")
    y: Tensor = out if isinstance(out, Tensor) else out[0]
    return y.reshape(hidden.shape), seen[0]


def present_rows(task: Any, batch: Any) -> Tensor | None:
    """Which positions of a batch hold text, bool [n, t]; None if all do, or the task knows no padding."""
    if not isinstance(task, Padded):
        return None
    present = task.present(batch)
    return None if bool(present.all()) else present


def assembled(moe: MoE, asked: dict[str, Any], inputs: list[Any]) -> Routed:
    """The routing of one call, from what the router read and answered and what the experts receive."""
    tensors = [t for t in inputs if isinstance(t, Tensor)]
    answers = asked["output"] if isinstance(asked["output"], tuple | list) else [asked["output"]]
    wide = [t for t in answers if isinstance(t, Tensor) and t.ndim == 2 and t.shape[1] == moe.routes]
    index = next((t for t in tensors if not t.is_floating_point()), None)
    if index is not None:
        hidden, weights = (t for t in tensors if t.is_floating_point())
        logits = next((t for t in wide if t.dtype == weights.dtype or t.shape != weights.shape), None)
        return Routed(hidden, index, weights, logits)
    return _of_every_expert(moe, asked["input"], tensors[0], wide)


def _of_every_expert(moe: MoE, hidden: Tensor, scaled: Tensor, wide: list[Tensor]) -> Routed:
    """Routing of a block whose experts read every token times its score, zero for all but the chosen ones."""
    hidden = hidden.reshape(-1, hidden.shape[-1])
    for scores in wide:
        told = hidden.repeat(moe.routes, 1) * scores.T.reshape(-1, 1)
        if told.shape == scaled.shape and torch.equal(told, scaled):
            k = int((scores != 0).sum(1).max())
            weights, index = scores.topk(max(k, 1), dim=1)
            logits = next((t for t in wide if t is not scores), None)
            return Routed(hidden, index, weights, logits)
    raise InputError(f"{moe.name}: what the experts read does not follow from the router's scores.")
