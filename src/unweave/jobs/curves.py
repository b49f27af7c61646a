"""Methods along a range of sparsities, for a comparison that draws accuracy over sparsity."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..errors import InputError


def along(
    methods: Mapping[str, Callable[[float], Any]], sparsities: Sequence[float]
) -> tuple[dict[str, Any], dict[str, dict[float, str]]]:
    """The fields `methods` and `curves` of a `CompareJob`: each method at each sparsity.

    Args:
        methods: name -> sparsity -> the recipe (or edit) at it.
        sparsities: shares of the weights to remove, two or more, each once.

    Raises:
        InputError: if there are fewer than two, or one repeats or lies outside [0, 1).

    Example:
        >>> methods, curves = along({"magnitude": lambda s: s}, [0.5, 0.9])
        >>> list(methods), curves
        (['magnitude at 0.5', 'magnitude at 0.9'], {'magnitude': {0.5: 'magnitude at 0.5', 0.9: 'magnitude at 0.9'}})
    """
    asked = list(sparsities)
    if len(asked) < 2 or len(set(asked)) < len(asked) or not all(0 <= s < 1 for s in asked):
        raise InputError(f"sparsities must be two or more different shares from 0 to below 1; got {asked}.")
    curves = {name: {s: f"{name} at {s:g}" for s in asked} for name in methods}
    made = {curves[name][s]: make(s) for name, make in methods.items() for s in asked}
    return made, curves
