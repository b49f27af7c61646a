"""Which layers are condensed, and in which order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.nn import Module

from ...errors import InputError
from ...models.moe.dense import swap_
from ...progress import progress
from ...types import Data
from .states import Metric, distance, final_states

Enough = Callable[[Sequence[str]], bool]


def choose_layers(
    model: Module, data: Data[Any], ready: Mapping[str, Module], enough: Enough, *, greedy: bool, metric: Metric = "js"
) -> tuple[list[str], list[float]]:  # fmt: skip
    """The order in which places of a model are replaced, and the distance of its final hidden states after each.

    Args:
        model: left as it was; its modules are swapped and put back.
        data: calibration texts.
        ready: path of a module -> what replaces it.
        enough: whether these paths are enough of them.
        greedy: choose again after each replacement; otherwise rank by the distances of the single replacements.
        metric: for hidden states.

    Raises:
        InputError: if all of them are not enough.
    """
    target, share = final_states(model, data)
    done: list[str] = []
    distances: list[float] = []

    def measure() -> float:
        states, _ = final_states(model, data)
        return distance(target, states, share, metric)

    def tried(name: str) -> float:
        old = swap_(model, name, ready[name])
        try:
            return measure()
        finally:
            swap_(model, name, old)

    kept: dict[str, Module] = {}
    try:
        alone: list[str] = []
        if not greedy:
            found = {name: tried(name) for name in ready}
            alone = sorted(ready, key=lambda name: found[name])
        with progress("choose layers", len(ready)) as bar:
            while not enough(done):
                left = [name for name in ready if name not in done]
                if not left:
                    raise InputError("CDMoE: replacing every mixture-of-experts layer is not enough.")
                found = {name: tried(name) for name in left} if greedy else {}
                best = min(left, key=lambda name: found[name]) if greedy else alone[len(done)]
                kept[best] = swap_(model, best, ready[best])
                done.append(best)
                distances.append(found[best] if greedy else measure())
                bar.advance()
    finally:
        for name, old in kept.items():
            swap_(model, name, old)
    return done, distances


def fixed_order(
    model: Module, data: Data[Any], ready: Mapping[str, Module], order: Sequence[str], metric: Metric = "js"
) -> list[float]:
    """Distances of the final hidden states as the places are replaced in a given order."""
    target, share = final_states(model, data)
    old: dict[str, Module] = {}
    distances: list[float] = []
    try:
        for name in order:
            old[name] = swap_(model, name, ready[name])
            states: Tensor = final_states(model, data)[0]
            distances.append(distance(target, states, share, metric))
    finally:
        for name, module in old.items():
            swap_(model, name, module)
    return distances
