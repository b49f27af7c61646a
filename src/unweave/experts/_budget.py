"""How many experts a share of the parameters pays for, and the pass over calibration texts that all scores share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Generator
from torch.nn import Module

from ..derivatives import spaced
from ..errors import InputError
from ..models.moe import MoE, Routed, present_rows, require_count, watching
from ..models.moe.cut import groups_of
from ..random import require_generator
from ..tasks import evaluating, requires
from ..tasks.language import CausalLM
from ..types import Data

See = Callable[[MoE, Routed], None]


def calibration(who: str, data: Data[Any], examples: int, rng: Generator) -> Data[Any]:
    """The calibration texts of a method, once it may use them.

    Raises:
        EmptyDataError: if there is none.
        InputError: if the task reads no text, or `rng` is no generator.
    """
    require_generator(rng)
    data.require_examples(who)
    requires(data.task, CausalLM, who)
    return spaced(data, examples)


def show_routing(who: str, model: Module, texts: Data[Any], moes: Sequence[MoE], see: See) -> None:
    """Run the model over the texts and show every block's routing, a batch at a time, padding left out.

    Raises:
        InputError: if the texts hold one token in all.
    """
    tokens = 0
    with evaluating(model):
        for batch in texts.batches():
            present = present_rows(texts.task, batch)
            tokens += texts.task.ids(batch).numel() if present is None else int(present.sum())
            with watching(moes, see, present):
                texts.task.outputs(model, batch)
    if tokens < 2:
        raise InputError(f"{who}: the calibration texts hold one token in all. Give longer texts.")


def experts_for(
    who: str, model: Module, moes: Sequence[MoE], memory: float, experts: int | None, *, router: bool = True
) -> int:
    """Experts to leave in each block: the number given, or the most that `memory` pays for.

    Args:
        who: named in errors.
        model: holds the blocks.
        moes: all of them.
        memory: largest share of the model's parameters to end with.
        experts: the number itself.
        router: whether the router shrinks too.

    Raises:
        InputError: if it does not fit a block, or the memory cannot be reached.
    """
    sizes = {moe.count for moe in moes}
    if len(sizes) > 1:
        raise InputError(
            f"{who} takes blocks of one size; these hold {', '.join(map(str, sorted(sizes)))} experts."
        )
    n, groups = sizes.pop(), groups_of(model)
    if experts is None:
        total = sum(p.numel() for p in model.parameters())
        one = sum(
            p.numel() // n
            for moe in moes
            for part in (moe.experts, moe.router)[: 1 + router]
            for p in part.parameters(recurse=False)
        )
        experts = int(n - (1 - memory) * total / one + 1e-9)
        experts = min(n, experts // groups * groups)
        if experts < max(1, moes[0].top_k * router):
            raise InputError(
                f"{who}.memory={memory:g} cannot be reached: a token uses {moes[0].top_k} of {n} experts, and with as "
                f"many {1 - (n - max(1, moes[0].top_k * router)) * one / total:.3f} of the parameters are left."
            )
    if router:
        for moe in moes:
            require_count(model, moe, experts, who)
    elif not 1 <= experts <= n:
        raise InputError(
            f"{who}.experts must be from 1 to {n}, the experts of {moes[0].name}; got {experts}."
        )
    return experts
