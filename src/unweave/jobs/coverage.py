"""What a way to prune looks at, of all matrix weights of a model, and why it leaves the rest dense."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch.nn import Module

from ..catalogue import name_of
from ..masks.patterns import NM
from ..masks.scope import Scope, kept, matrices
from ..prune import Prune


@dataclass(frozen=True)
class Coverage:
    """What was looked at, and what was left.

    Attributes:
        looked: share of the matrix weights that were looked at.
        zero: share of the matrix weights that are zero.
        left: matrix weight -> why it is dense.
    """

    looked: float
    zero: float
    left: Mapping[str, str]

    def __str__(self) -> str:
        """In a sentence."""
        dense = f"; matrices left dense: {len(self.left)}" if self.left else ""
        looked, zero = f"{100 * self.looked:.1f}", f"{100 * self.zero:.1f}"
        return (
            f"Of the matrix weights {looked} % were looked at and {zero} % are zero{dense}"
            " (biases, norms and what an embedding holds are not counted)."
        )


def coverage(edit: Any, before: Module, after: Module) -> Coverage:
    """Read off a pruned model what was looked at, and say why the rest is dense.

    Args:
        edit: that pruned it.
        before: the model that it was given.
        after: what it made of it.
    """
    counts = kept(after)
    scope = scope_of(edit)
    inside = scope.covers(before)
    left: dict[str, str] = {}
    looked = 0
    for weight in matrices(before):
        living, total = counts.get(weight.name, (0, 0))
        why = weight.left or _outside(weight.name, inside, scope) or _misfit(edit, weight.parameter.shape)
        by_budget = not why and hasattr(edit, "budget")
        looked += total if by_budget or living < total else 0
        if living == total:
            left[weight.name] = why or (
                "the budget leaves it whole" if by_budget else f"{name_of(edit)} does not prune it"
            )
    every = sum(total for _, total in counts.values()) or 1
    zero = 1 - sum(living for living, _ in counts.values()) / every
    return Coverage(looked / every, zero, left)


def scope_of(edit: Any) -> Scope:
    """The weights that a way to prune was told to look at; all, if it was told nothing."""
    scope = getattr(edit.score if isinstance(edit, Prune) else edit, "scope", None)
    return scope if isinstance(scope, Scope) else Scope()


def _outside(name: str, inside: set[str], scope: Scope) -> str:
    if name in inside:
        return ""
    if scope.only or scope.skip:
        return "out of scope: not chosen, or skipped"
    return "out of scope: the first or the last"


def _misfit(edit: Any, shape: tuple[int, ...]) -> str:
    pattern = getattr(edit, "pattern", None)
    return pattern.misfit(shape) if isinstance(pattern, NM) else ""
